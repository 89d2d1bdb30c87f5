"""The original files of CIFAR-10 and CIFAR-100: Python's pickles and the binary version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_esq.data.dataset import Pair, as_labels
from keras_esq.data.unpickling import unpickle_arrays

_CHANNELS, _SIZE = 3, 32
_PIXELS = _CHANNELS * _SIZE * _SIZE


def read_pickles(files: Sequence[tuple[str, bytes]], label_key: str, classes: int) -> Pair:
    """Images (n, 32, 32, 3), uint8, and class ids of Python batches.

    Args:
        files: (name, content) of each batch.
        label_key: "labels" in CIFAR-10, "fine_labels" in CIFAR-100.
        classes: number of classes.

    Raises:
        ValueError: for a damaged pickle or one with code, a missing entry, a wrong shape or label.
    """
    return _joined([_pickle_batch(unpickle_arrays(content, name), name, label_key, classes) for name, content in files])


def _pickle_batch(batch: dict[str, Any], name: str, label_key: str, classes: int) -> Pair:
    if label_key not in batch or "data" not in batch:
        other = {"labels": "cifar10", "fine_labels": "cifar100"}
        hint = " ".join(f"This looks like {other[key]}." for key in other if key in batch and key != label_key)
        raise ValueError(f"Expected 'data' and {label_key!r} in {name}. Received {sorted(batch)}. {hint}".rstrip())
    rows = batch["data"]
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != _PIXELS or not len(rows):
        shape = rows.shape if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ValueError(f"Expected 'data' in {name} to be bytes of shape (n, {_PIXELS}). Received {shape}.")
    labels = batch[label_key]
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"Expected {label_key!r} in {name} to be a list of whole numbers.")
    return _images(rows), as_labels(labels, len(rows), classes, f"{label_key!r} of {name}")


def read_binaries(files: Sequence[tuple[str, bytes]], label_bytes: int, classes: int) -> Pair:
    """Images (n, 32, 32, 3), uint8, and class ids of batches of the binary version.

    Args:
        files: (name, content) of each batch: records of label bytes and 3,072 pixels.
        label_bytes: 1 in CIFAR-10; 2 in CIFAR-100, of which the second is the class.
        classes: number of classes.

    Raises:
        ValueError: for a length that is not a number of records, or a wrong label.
    """
    return _joined([_binary_batch(name, content, label_bytes, classes) for name, content in files])


def _binary_batch(name: str, content: bytes, label_bytes: int, classes: int) -> Pair:
    record = label_bytes + _PIXELS
    if not content or len(content) % record:
        raise ValueError(
            f"Expected {name} to be records of {record} bytes. Received {len(content)} bytes: cut off, or "
            "not the original file. Download it again."
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return _images(rows[:, label_bytes:]), as_labels(rows[:, label_bytes - 1], len(rows), classes, f"labels of {name}")


def _images(rows: np.ndarray) -> np.ndarray:
    """Rows of one channel after the other as images with the channels last; a view."""
    return rows.reshape(-1, _CHANNELS, _SIZE, _SIZE).transpose(0, 2, 3, 1)


def _joined(batches: list[Pair]) -> Pair:
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)
