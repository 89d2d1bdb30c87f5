"""Shared fixtures: small trained things that several tests look at."""

from __future__ import annotations

import numpy as np
import pytest

from keras_esq._keras import keras


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(1234)


@pytest.fixture(scope="session")
def digits():
    from keras_esq import data

    return data.load("digits")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((12, 8, 8, 3), dtype=np.float32)
