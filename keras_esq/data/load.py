"""`load`: a data set by its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keras_esq._checks import near_matches
from keras_esq.data.dataset import Dataset, assemble
from keras_esq.data.digits import load_digits
from keras_esq.data.files import download, find_at, find_in_cache, read_members
from keras_esq.data.npz import read_arrays, read_pairs
from keras_esq.data.sources import SOURCES, Source

NAMES = ("digits", *SOURCES)


def load(name: str, path: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set by name.

    | name | images | training, validation, test | files |
    |---|---|---|---|
    | "digits" | 8x8x1 | 1,197, 200, 400 | none: scikit-learn's real handwritten digits |
    | "mnist", "fashion_mnist" | 28x28x1 | 54,000, 6,000, 10,000 | idx, plain or gzipped; .npz |
    | "cifar10", "cifar100" | 32x32x3 | 45,000, 5,000, 10,000 | Python or binary version, .tar.gz or unpacked; .npz |

    The validation images are a tenth of the original training images, drawn by a fixed seed; the test images are the
    original ones, in their order. Files may hold fewer images than the originals. Pickles are read without running
    what is in them. CIFAR-100's labels are the 100 fine ones. Memory: 4 bytes for each pixel value, 0.7 GB for CIFAR,
    and for a moment a half more.

    Args:
        name: one of the above.
        path: the data set's file, or the folder with its files. None looks into the Keras cache (~/.keras/datasets),
            then downloads to there by Keras' own function.

    Returns:
        A `Dataset` with bounds (0, 1).

    Raises:
        ValueError: for an unknown name, with the near ones; for a file of a wrong format, size or range of labels.
        FileNotFoundError: if the files are not there, or can't be downloaded, with the files to put where.
        OSError: if a file can't be read.
        ImportError: for "digits" without scikit-learn.

    References: LeCun et al., "Gradient-based learning applied to document recognition", 1998. Xiao et al.,
    "Fashion-MNIST", 2017, arXiv 1708.07747. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    if name not in NAMES:
        raise ValueError(f"Expected the name of a data set. Received {name!r}. {near_matches(name, NAMES)}")
    if name == "digits":
        if path is not None:
            raise ValueError(f"Expected no path for 'digits', which scikit-learn holds. Received {str(path)!r}.")
        return load_digits()
    source = SOURCES[name]
    location = find_in_cache(source) if path is None else find_at(source, Path(path))
    return _read(source, download(source) if location is None else location)


def _read(source: Source, location: Path) -> Dataset:
    fields: dict[str, Any] = {"class_names": source.class_names, "name": source.name, "augment": source.augment}
    if location.suffix == ".npz":
        pairs = read_pairs(read_arrays(location), location.name, source.shape, len(source.class_names))
        return assemble(pairs["train"], pairs["test"], pairs.get("val"), **fields)
    contents = read_members(location, {name for one in source.formats for name in (*one.train, *one.test)})
    for one in source.formats:
        if {*one.train, *one.test} <= set(contents):
            train, test = (
                one.read([(str(location / name), contents.pop(name)) for name in names])
                for names in (one.train, one.test)
            )
            return assemble(train, test, **fields)
    raise ValueError(
        f"Expected the files of {source.name!r} in {str(location)!r}: "
        f"{'; or '.join(', '.join((*one.train, *one.test)) for one in source.formats)}. Received {sorted(contents)}."
    )
