"""`resolve`: the data set that a command line means."""

from __future__ import annotations

import os
from pathlib import Path

from keras_esq._checks import near_matches
from keras_esq.data.dataset import Dataset
from keras_esq.data.folder import from_folder
from keras_esq.data.load import NAMES, load
from keras_esq.data.npz import from_npz


def resolve(
    text: str,
    path: str | os.PathLike[str] | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Dataset:
    """The data set that `text` means: a name for `load`, an .npz file for `from_npz`, a folder for `from_folder`.

    Names go first: "./mnist" is a folder, "mnist" never.

    Args:
        text: a name, or the path of an .npz file or of a folder with a subfolder per class.
        path: for a name, where its files are; see `load`.
        image_size, channels: for a folder; see `from_folder`. None for its defaults.

    Returns:
        A `Dataset` with bounds (0, 1).

    Raises:
        ValueError: if `text` is none of these, with the near names; if `path` comes with something else than a name,
            or `image_size` or `channels` with something else than a folder.
        OSError: if a file is not there or can't be read.
    """
    place = Path(text)
    options = {"image_size": image_size, "channels": channels}
    given = {name: value for name, value in options.items() if value is not None}
    if text not in NAMES and path is not None:
        raise ValueError(
            f"Expected the name of a data set with the path {str(path)!r}. Received {text!r}. "
            f"{near_matches(text, NAMES)}"
        )
    if text not in NAMES and place.is_dir():
        return from_folder(place, **given)  # type: ignore[arg-type]
    if given:
        raise ValueError(f"Expected {' and '.join(given)} for a folder of images only. Received {text!r}. Drop it.")
    if text in NAMES:
        return load(text, path)
    if place.suffix == ".npz":
        return from_npz(place)
    what = "a file of another kind" if place.exists() else "neither a name nor a path that exists"
    raise ValueError(
        f"Expected the name of a data set, an .npz file or a folder with a subfolder per class. Received {text!r}, "
        f"{what}. {near_matches(text, NAMES)}"
    )
