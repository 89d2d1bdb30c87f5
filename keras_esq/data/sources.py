"""What the named data sets consist of: their files, classes and download."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from keras_esq.data.cifar import read_binaries, read_pickles
from keras_esq.data.dataset import Pair
from keras_esq.data.idx import read_idx_pair

_KERAS_FILES = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
_CIFAR_FILES = "https://www.cs.toronto.edu/~kriz/"


@dataclasses.dataclass(frozen=True)
class Format:
    """One of a data set's original formats.

    Attributes:
        train, test: names of the files, without .gz.
        read: from (name, content) of the files of a split to images (n, h, w, c), uint8, and class ids.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    read: Callable[[Sequence[tuple[str, bytes]]], Pair]


@dataclasses.dataclass(frozen=True)
class Download:
    """One file that Keras downloads: its name in the cache, address and SHA-256 as Keras has them (None: none)."""

    name: str
    url: str
    sha256: str | None


@dataclasses.dataclass(frozen=True)
class Source:
    """A named data set.

    Attributes:
        name: as `load` takes it.
        shape: (height, width, channels).
        class_names: in the order of the class ids.
        augment: the papers' augmentation.
        formats: the original formats.
        folders: where archives and other libraries unpack the files, relative to a folder of data sets.
        archives: names of archives and .npz files.
        downloads: what Keras downloads.
        cache_folder: where Keras keeps it, relative to the cache.
    """

    name: str
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    augment: str
    formats: tuple[Format, ...]
    folders: tuple[str, ...]
    archives: tuple[str, ...]
    downloads: tuple[Download, ...]
    cache_folder: str = ""


_IDX = ("{}-images-idx3-ubyte", "{}-labels-idx1-ubyte")
_IDX_TRAIN, _IDX_TEST = (tuple(name.format(split) for name in _IDX) for split in ("train", "t10k"))


def _idx() -> tuple[Format]:
    return (Format(_IDX_TRAIN, _IDX_TEST, partial(read_idx_pair, size=(28, 28), classes=10)),)


MNIST = Source(
    name="mnist",
    shape=(28, 28, 1),
    class_names=tuple("0123456789"),
    augment="none",
    formats=_idx(),
    folders=("mnist", "MNIST/raw"),
    archives=("mnist.npz",),
    downloads=(
        Download(
            "mnist.npz",
            _KERAS_FILES + "mnist.npz",
            "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
        ),
    ),
)

FASHION_MNIST = Source(
    name="fashion_mnist",
    shape=(28, 28, 1),
    class_names=(
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    augment="none",
    formats=_idx(),
    folders=("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
    archives=("fashion_mnist.npz", "fashion-mnist.npz"),
    downloads=tuple(
        Download(f"{name}.gz", f"{_KERAS_FILES}{name}.gz", None) for name in (*_IDX_TRAIN, *_IDX_TEST)
    ),
    cache_folder="fashion-mnist",
)  # fmt: skip

CIFAR10 = Source(
    name="cifar10",
    shape=(32, 32, 3),
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    augment="crop_flip",
    formats=(
        Format(
            tuple(f"data_batch_{i}" for i in range(1, 6)),
            ("test_batch",),
            partial(read_pickles, label_key="labels", classes=10),
        ),
        Format(
            tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            ("test_batch.bin",),
            partial(read_binaries, label_bytes=1, classes=10),
        ),
    ),
    folders=("cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py", "cifar-10-batches-bin"),
    archives=("cifar-10-python.tar.gz", "cifar-10-batches-py.tar.gz", "cifar-10-binary.tar.gz", "cifar10.npz"),
    downloads=(
        Download(
            "cifar-10-batches-py.tar.gz",
            _CIFAR_FILES + "cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
    ),
)

_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR100 = Source(
    name="cifar100",
    shape=(32, 32, 3),
    class_names=tuple(_CIFAR100_CLASSES.split()),
    augment="crop_flip",
    formats=(
        Format(("train",), ("test",), partial(read_pickles, label_key="fine_labels", classes=100)),
        Format(("train.bin",), ("test.bin",), partial(read_binaries, label_bytes=2, classes=100)),
    ),
    folders=("cifar-100-python", "cifar-100-python-target/cifar-100-python", "cifar-100-binary"),
    archives=("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz", "cifar100.npz"),
    downloads=(
        Download(
            "cifar-100-python.tar.gz",
            _CIFAR_FILES + "cifar-100-python.tar.gz",
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        ),
    ),
)

SOURCES = {source.name: source for source in (MNIST, FASHION_MNIST, CIFAR10, CIFAR100)}
