"""idx, the original file format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from keras_esq.data.dataset import Pair, as_labels

_GZIP = b"\x1f\x8b"
_BYTES = 0x08  # the code of idx for elements of one unsigned byte


def read_idx(content: bytes, ndim: int, what: str) -> np.ndarray:
    """The array of unsigned bytes in an idx file, plain or gzipped.

    Args:
        content: the file: two zero bytes, the type, the number of dimensions, the dimensions (32 bit, big endian), the
            elements.
        ndim: number of dimensions that is expected.
        what: what to call the file in an error.

    Raises:
        ValueError: for a damaged gzip stream, another magic number or another size than the header tells.

    Reference: http://yann.lecun.com/exdb/mnist/
    """
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"Expected {what} to be a whole gzip file. Received a damaged or truncated one ({error}). Download it "
                "again."
            ) from error
    magic = bytes([0, 0, _BYTES, ndim])
    header = len(magic) + 4 * ndim
    if content[:4] != magic or len(content) < header:
        raise ValueError(
            f"Expected {what} to be an idx file of bytes with {ndim} dimensions, which begins with {magic.hex()}. "
            f"Received {len(content)} bytes that begin with {content[:4].hex() or 'nothing'}."
        )
    shape = struct.unpack_from(f">{ndim}I", content, len(magic))
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"Expected {math.prod(shape)} bytes after the header of {what}, which tells the shape {shape}. Received "
            f"{len(content) - header}. Download it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_idx_pair(files: Sequence[tuple[str, bytes]], size: tuple[int, int], classes: int) -> Pair:
    """Images (n, height, width, 1), uint8, and class ids of a file of images and one of labels.

    Args:
        files: (name, content) of the images and of the labels.
        size: height and width that are expected.
        classes: number of classes.

    Raises:
        ValueError: as `read_idx`, and for another size, number or range of labels.
    """
    (images_name, images_content), (labels_name, labels_content) = files
    images = read_idx(images_content, 3, images_name)
    if images.shape[1:] != size or not len(images):
        raise ValueError(f"Expected images of {size[0]}x{size[1]} in {images_name}. Received shape {images.shape}.")
    labels = as_labels(read_idx(labels_content, 1, labels_name), len(images), classes, labels_name)
    return images[..., None], labels
