"""scikit-learn's digits, the data set that needs no file and no network."""

from __future__ import annotations

import numpy as np

from keras_esq.data.dataset import Dataset

_SEED = 2020
_LARGEST_PIXEL = 16


def load_digits() -> Dataset:
    """1,797 real handwritten digits, 8x8x1, 17 grey values, split by a fixed seed: 1,197, 200 and 400.

    Raises:
        ImportError: if scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "The digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(_SEED).permutation(len(x))
    images = (x[order].reshape(-1, 8, 8, 1) / _LARGEST_PIXEL).astype(np.float32)
    labels = y[order].astype(np.int32)
    test, val, train = slice(0, 400), slice(400, 600), slice(600, None)
    return Dataset(
        images[train],
        labels[train],
        images[val],
        labels[val],
        images[test],
        labels[test],
        tuple("0123456789"),
        name="digits",
    )
