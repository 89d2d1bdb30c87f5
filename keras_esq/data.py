"""Loaders of image data."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_esq._checks import near_matches

_DIGITS_SEED = 2020


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and labels, split.

    Attributes:
        x_train, x_val, x_test: float32 (n, height, width, channels), in `bounds`.
        y_train, y_val, y_test: class ids (n,), int32.
        class_names: name of each class.
        bounds: lowest and highest valid value of an image.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]
    bounds: tuple[float, float] = (0.0, 1.0)


def load(name: str) -> Dataset:
    """Load a data set by name.

    "digits": scikit-learn's 1,797 real handwritten digits, 8x8x1 in [0, 1] (17 grey values), shuffled and split by a
    fixed seed into 1,197 for training, 200 for validation and 400 for test. Needs no network.

    Raises:
        ValueError: for an unknown name, with the near ones.
        ImportError: if scikit-learn is not installed.
    """
    if name != "digits":
        raise ValueError(f"Expected the name of a data set. Received {name!r}. {near_matches(name, ['digits'])}")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(_DIGITS_SEED).permutation(len(x))
    images = (x[order].reshape(-1, 8, 8, 1) / 16.0).astype(np.float32)
    labels = y[order].astype(np.int32)
    test, val = slice(0, 400), slice(400, 600)
    train = slice(600, None)
    return Dataset(
        images[train], labels[train], images[val], labels[val], images[test], labels[test], tuple("0123456789")
    )
