"""Shared fixtures: small trained things that several tests look at."""

from __future__ import annotations

import os

import numpy as np
import pytest


def pytest_configure(config) -> None:
    """One core for each of several test processes: TensorFlow's threads, a set a process, slow each other down."""
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if worker is None or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if workers >= len(cores):
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


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
