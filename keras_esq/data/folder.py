"""Image folders with one subfolder per class."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from keras_esq._checks import check_count
from keras_esq.data.dataset import VALIDATION_SHARE, Dataset

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_TEST_SHARE = 0.2
_SEED = 2020

_BMP, _BMP_HEADER = b"BM", 54

# Image files and their class ids.
Items = list[tuple[Path, int]]


def from_folder(path: str | os.PathLike[str], image_size: tuple[int, int] | None = None, channels: int = 3) -> Dataset:
    """A data set of image files, with one subfolder per class.

    Either `path` has the subfolders "train" and "test", and maybe "val", with the classes in each; or it has the
    classes, of each of which a fifth is for test and a tenth of the rest for validation, drawn by a fixed seed. Without
    "val", a tenth of each class of "train" is for validation. Classes are numbered in the order of their names. All
    images are held in memory: 4 bytes for each pixel value.

    Args:
        path: the folder. PNG, JPEG, BMP and GIF (its first frame) are read; hidden and other files are passed over.
        image_size: (height, width) to which images are resized, by area-weighted (antialiased) bilinear interpolation
            and without keeping proportions, as a camera's frame is for a network. None takes them as they are, which
            must be one size.
        channels: 3 for colour, 1 for grey; images are converted.

    Returns:
        A `Dataset` with bounds (0, 1), named after the folder.

    Raises:
        FileNotFoundError: if the folder does not exist.
        OSError: if it can't be read.
        TypeError: if `image_size` or `channels` are no whole numbers.
        ValueError: for a folder without classes, a class without images or with too few to split, splits with
            different classes, a broken image, images of different sizes without `image_size`, or a bad argument.
    """
    root = Path(path)
    if not root.is_dir():
        kind = "is a file" if root.exists() else "does not exist"
        raise FileNotFoundError(f"Expected a folder with a subfolder per class. {str(root)!r} {kind}.")
    if channels not in (1, 3):
        raise ValueError(f"Expected channels to be 1 (grey) or 3 (colour). Received {channels!r}.")
    size = None if image_size is None else _check_size(image_size)
    names, splits = _splits(root)
    own_size = _read_image(splits[0][0][0], channels).shape[:2]
    train, val, test = (_read_images(items, size, own_size, channels) for items in splits)
    return Dataset(*train, *val, *test, class_names=names, name=root.resolve().name)


def _check_size(image_size: Any) -> tuple[int, int]:
    if not isinstance(image_size, tuple | list) or len(image_size) != 2:
        raise TypeError(f"Expected image_size to be (height, width). Received: {image_size!r}.")
    height, width = (check_count("image_size", side) for side in image_size)
    return height, width


def _splits(root: Path) -> tuple[tuple[str, ...], list[Items]]:
    """Class names, and the items of training, validation and test."""
    has = {split: (root / split).is_dir() for split in ("train", "val", "test")}
    if has["train"] and has["test"]:
        found = {split: _classes(root / split) for split in has if has[split]}
        names = tuple(found["train"])
        for split, classes in found.items():
            if tuple(classes) != names:
                difference = sorted({*classes} ^ {*names})
                raise ValueError(
                    f"Expected the classes of 'train' in {split!r} of {str(root)!r}. Received a difference in "
                    f"{difference}. Name the subfolders alike."
                )
        items = {split: _labelled(classes) for split, classes in found.items()}
        if not has["val"]:
            items["val"], items["train"] = _drawn(items["train"], VALIDATION_SHARE, root)
        return names, [items["train"], items["val"], items["test"]]
    classes = _classes(root)
    test, rest = _drawn(_labelled(classes), _TEST_SHARE, root)
    val, train = _drawn(rest, VALIDATION_SHARE, root)
    return tuple(classes), [train, val, test]


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Class name -> its image files, in the order of their names."""
    folders = sorted(sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith("."))
    if len(folders) < 2:
        raise ValueError(
            f"Expected at least 2 classes, each a subfolder of {str(folder)!r}. Received {[f.name for f in folders]}."
        )
    classes = {sub.name: _images_in(sub) for sub in folders}
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise ValueError(
            f"Expected images ({', '.join(_SUFFIXES)}) in every subfolder of {str(folder)!r}. There are none in "
            f"{empty}. Put images there, or remove the subfolder."
        )
    return classes


def _images_in(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in _SUFFIXES and not f.name.startswith("."))


def _labelled(classes: dict[str, list[Path]]) -> Items:
    return [(file, label) for label, files in enumerate(classes.values()) for file in files]


def _drawn(items: Items, share: float, root: Path) -> tuple[Items, Items]:
    """A share of each class, at least one image, and the rest."""
    rng = np.random.default_rng(_SEED)
    drawn: Items = []
    rest: Items = []
    for label in sorted({label for _, label in items}):
        own = [item for item in items if item[1] == label]
        if len(own) < 2:
            raise ValueError(
                f"Expected at least 3 images of each class in {str(root)!r}, to split them into training, validation "
                f"and test. Received too few in {str(own[0][0].parent)!r}."
            )
        held = set(rng.permutation(len(own))[: max(1, int(len(own) * share))].tolist())
        drawn += [item for i, item in enumerate(own) if i in held]
        rest += [item for i, item in enumerate(own) if i not in held]
    return drawn, rest


def _read_images(
    items: Items, size: tuple[int, int] | None, own_size: tuple[int, ...], channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, height, width, channels), float32 in [0, 1], and class ids; resized, or all of `own_size`."""
    images = np.empty((len(items), *(size or own_size), channels), np.float32)
    for i, (file, _) in enumerate(items):
        image = _read_image(file, channels)
        if size is not None:
            image = _resized(image, size)
        elif image.shape[:2] != own_size:
            raise ValueError(
                f"Expected all images to have the size of the first, {own_size[0]}x{own_size[1]}. Received "
                f"{image.shape[0]}x{image.shape[1]} in {str(file)!r}. Give image_size=(height, width) to resize them."
            )
        np.divide(image, np.float32(255), out=images[i], dtype=np.float32)
    return images, np.array([label for _, label in items], np.int32)


def _read_image(file: Path, channels: int) -> np.ndarray:
    """One image (height, width, channels), uint8."""
    import tensorflow as tf  # reading other data sets needs no TensorFlow

    content = file.read_bytes()
    try:
        if content.startswith(_BMP):
            colours = _palette(content, file)
            image = tf.io.decode_bmp(content, channels=3 if colours is None else 0)
            image = image if colours is None else tf.gather(colours, tf.cast(image[..., 0], tf.int32))
        else:
            image = _decoded(content, channels)
    except tf.errors.InvalidArgumentError as error:
        reason = error.message.splitlines()[0].split("}} ")[-1]  # without the name of the function
        raise ValueError(
            f"Expected an image in {str(file)!r}. It can't be decoded: {reason} Remove or replace it."
        ) from error
    return (tf.image.rgb_to_grayscale(image) if image.shape[-1] > channels else image).numpy()


def _decoded(content: bytes, channels: int) -> Any:
    import tensorflow as tf

    try:
        return tf.io.decode_image(content, channels=channels, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        if channels == 3:
            raise
        # Of GIF, and of JPEG in CMYK, TensorFlow makes no grey.
        return tf.io.decode_image(content, channels=3, expand_animations=False)


def _palette(content: bytes, file: Path) -> np.ndarray | None:
    """The colours (256, 3) of a BMP of 8 bits a pixel, which TensorFlow takes for grey values; None for other BMPs."""
    if len(content) < _BMP_HEADER or content[28] != 8:
        return None
    (header,), (compression,), (count,) = (struct.unpack_from("<I", content, place) for place in (14, 30, 46))
    stored = np.frombuffer(content, np.uint8)[14 + header :][: 4 * (count or 256)]
    if compression or len(stored) % 4 or len(stored) > 4 * 256:
        raise ValueError(f"Expected an image in {str(file)!r}. Received a compressed or damaged BMP. Save it as PNG.")
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(stored) // 4] = stored.reshape(-1, 4)[:, 2::-1]  # blue, green, red, nothing
    return colours


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import tensorflow as tf

    # Rounding errors of the interpolation would leave the bounds.
    return np.clip(tf.image.resize(image, size, antialias=True).numpy(), 0, 255)
