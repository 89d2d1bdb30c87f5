"""The data set object, and the checks and splits that every source of images shares."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

VALIDATION_SHARE = 0.1
_SEED = 2020
_LARGEST_PIXEL = 255

# Images (n, height, width, channels) and their class ids (n,).
Pair = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and labels, split.

    Attributes:
        x_train, x_val, x_test: float32 (n, height, width, channels), in `bounds`.
        y_train, y_val, y_test: class ids (n,), int32.
        class_names: name of each class.
        bounds: lowest and highest valid value of an image.
        name: what the data set is called in tables.
        augment: what `pipeline` should do to its training images: the papers' choice for this data set.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]
    bounds: tuple[float, float] = (0.0, 1.0)
    name: str = "data"
    augment: str = "none"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image, as the reference networks take it."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def validation_split(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of `n` images to train and to validate on: a tenth, drawn by a fixed seed, both in rising order.

    Raises:
        ValueError: for less than 2 images.
    """
    if n < 2:
        raise ValueError(f"Expected at least 2 training images, one of them for validation. Received {n}.")
    order = np.random.default_rng(_SEED).permutation(n)
    held = max(1, int(n * VALIDATION_SHARE))
    return np.sort(order[held:]), np.sort(order[:held])


def as_images(x: Any, what: str) -> np.ndarray:
    """Return `x` as images (n, height, width, channels) of its own type; grey ones of shape (n, h, w) get a channel.

    Raises:
        ValueError: for another shape, no images, or elements that are no numbers.
    """
    array = np.asarray(x)
    if array.dtype.kind not in "uif":
        raise ValueError(f"Expected {what} to hold numbers. Received elements of type {array.dtype}.")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or not array.size:
        raise ValueError(
            f"Expected {what} to hold images of shape (n, height, width) or (n, height, width, channels), n >= 1. "
            f"Received shape {np.shape(x)}."
        )
    return array


def unit_range(images: np.ndarray, what: str) -> np.ndarray:
    """Images as float32 in [0, 1]: whole numbers are divided by 255, others must lie in [0, 1] already.

    Raises:
        ValueError: for values outside the range of their kind, NaN or infinity.
    """
    if images.size and images.dtype != np.uint8:
        low, high = images.min(), images.max()
        top = 1 if images.dtype.kind == "f" else _LARGEST_PIXEL
        if not (low >= 0 and high <= top):  # NaN fails too
            raise ValueError(
                f"Expected {what} with whole numbers of 0 to 255 or fractions of 0 to 1. Received {images.dtype} from "
                f"{low} to {high}. Scale the images and save them again."
            )
    out = np.empty(images.shape, np.float32)
    if images.dtype.kind == "f":
        out[...] = images
        return out
    # The type is named, as numpy would calculate in float16 or float64; the output is the only copy.
    return np.divide(images, np.float32(_LARGEST_PIXEL), out=out, dtype=np.float32, casting="unsafe")


def as_labels(y: Any, n: int, classes: int | None, what: str) -> np.ndarray:
    """Return class ids (n,), int32, of `y`, which has shape (n,) or (n, 1).

    Raises:
        ValueError: for another shape, or an id that is no whole number in [0, classes).
    """
    array = np.asarray(y)
    if array.shape not in ((n,), (n, 1)):
        advice = " One-hot rows become ids by y.argmax(axis=1)." if array.ndim == 2 else ""
        raise ValueError(f"Expected {what} to be {n} class ids, one per image. Received shape {array.shape}.{advice}")
    if array.dtype.kind not in "uif" or (array.dtype.kind == "f" and not (array == np.floor(array)).all()):
        raise ValueError(f"Expected {what} to be whole numbers. Received {array.dtype}, such as {array.flat[0]!r}.")
    low, high = array.min(), array.max()
    top = np.iinfo(np.int32).max if classes is None else classes - 1
    if low < 0 or high > top:
        raise ValueError(f"Expected class ids of 0 to {top} in {what}. Received {low} to {high}.")
    return array.reshape(-1).astype(np.int32)


def assemble(
    train: Pair,
    test: Pair,
    validation: Pair | None = None,
    *,
    class_names: tuple[str, ...],
    name: str,
    augment: str = "none",
) -> Dataset:
    """A Dataset of images of any type that `unit_range` takes and class ids.

    Args:
        train, test, validation: images and class ids; without `validation`, that is a part of `train`.
        class_names, name, augment: as in Dataset.

    Raises:
        ValueError: as `validation_split` and `unit_range` do.
    """
    if validation is None:
        kept, held = validation_split(len(train[0]))
        validation = train[0][held], train[1][held]
        train = train[0][kept], train[1][kept]
    return Dataset(
        x_train=unit_range(train[0], "training images"),
        y_train=train[1],
        x_val=unit_range(validation[0], "validation images"),
        y_val=validation[1],
        x_test=unit_range(test[0], "test images"),
        y_test=test[1],
        class_names=class_names,
        name=name,
        augment=augment,
    )
