"""Shared fixtures: small trained things that several tests look at."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _seeded():
    # Imported here, as TensorFlow's notes would else follow the summary of a run on several processes.
    from keras_esq._keras import keras

    keras.utils.set_random_seed(1234)


@pytest.fixture(scope="session")
def digits():
    from keras_esq import data

    return data.load("digits")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((12, 8, 8, 3), dtype=np.float32)
