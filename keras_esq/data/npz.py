"""Data sets in .npz files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from keras_esq.data.dataset import Dataset, Pair, as_images, as_labels, assemble

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_VALIDATION = ("x_val", "y_val")
_NAMES = "class_names"


def from_npz(path: str | os.PathLike[str]) -> Dataset:
    """A data set in an .npz file, as `np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)` writes it.

    Args:
        path: the file. Images have shape (n, height, width) or (n, height, width, channels), whole numbers of 0 to 255
            or fractions of 0 to 1. Labels are class ids of shape (n,) or (n, 1). Optional are "x_val" and "y_val";
            without them, a tenth of the training images, drawn by a fixed seed, is for validation. Optional is
            "class_names", a list of text; without it, the classes are called "0", "1" and so on.

    Returns:
        A `Dataset` with bounds (0, 1), named after the file, without augmentation.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it is no .npz file, lacks an array, or an array has a wrong shape, range or kind. Arrays of
            Python objects are pickles, which could run code: they are refused.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"Expected an .npz file. {str(path)!r} is a folder: use from_folder for images.")
    arrays = read_arrays(path)
    names = arrays.pop(_NAMES, None)
    if names is not None and (names.ndim != 1 or names.dtype.kind not in "US"):
        raise ValueError(f"Expected {_NAMES!r} in {path.name} to be a list of text. Received {names.dtype}.")
    known = None if names is None else tuple(n.decode() if isinstance(n, bytes) else n for n in names.tolist())
    pairs = read_pairs(arrays, path.name, None, None if known is None else len(known))
    classes = known or tuple(str(i) for i in range(1 + max(int(labels.max()) for _, labels in pairs.values())))
    if len(classes) < 2:
        raise ValueError(f"Expected at least 2 classes in {path.name}. Received {len(classes)}.")
    return assemble(pairs["train"], pairs["test"], pairs.get("val"), class_names=classes, name=path.stem)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file that a data set may have.

    Raises:
        OSError, ValueError: as `from_npz`.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds a single array")
        with loaded:
            missing = [key for key in _REQUIRED if key not in loaded.files]
            if missing:
                raise ValueError(f"it lacks {missing} and has {loaded.files}")
            return {key: loaded[key] for key in (*_REQUIRED, *_VALIDATION, _NAMES) if key in loaded.files}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"Expected an .npz file. There is none at {str(path)!r}.") from error
    except Exception as error:  # a damaged file raises nearly anything
        if isinstance(error, OSError) and error.filename is not None:
            raise  # it can't be opened
        raise ValueError(
            f"Expected an .npz file with the arrays {', '.join(_REQUIRED)}, of numbers. Received {str(path)!r}: "
            f"{error}. Write it with np.savez."
        ) from error


def read_pairs(
    arrays: dict[str, np.ndarray], file: str, shape: tuple[int, int, int] | None, classes: int | None
) -> dict[str, Pair]:
    """(images, class ids) of "train", "test" and, if the arrays have it, "val".

    Args:
        arrays: as `read_arrays` returns them.
        file: its name, for errors.
        shape: (height, width, channels) that is expected; that of the training images if None.
        classes: number of classes, None if it is not known.

    Raises:
        ValueError: for an array with a wrong shape, range or kind.
    """
    if len([key for key in _VALIDATION if key in arrays]) == 1:
        raise ValueError(f"Expected both of {_VALIDATION} in {file}, or none. Received one.")
    pairs: dict[str, Pair] = {}
    wanted: tuple[int, ...] | None = shape
    for split in ("train", "test", "val"):
        if f"x_{split}" not in arrays:
            continue
        images = as_images(arrays[f"x_{split}"], f"x_{split} in {file}")
        wanted = wanted or images.shape[1:]
        if images.shape[1:] != wanted:
            raise ValueError(f"Expected x_{split} in {file} to hold images of shape {wanted}. Received {images.shape}.")
        pairs[split] = images, as_labels(arrays[f"y_{split}"], len(images), classes, f"y_{split} in {file}")
    return pairs
