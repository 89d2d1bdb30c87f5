"""TFLM's look-up tables, verified and decoded: packed indices, and a table of values for each channel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_esq.runtime.flatbuffer_format import FlatbufferError

TABLE_HEADER_BYTES = 16

# Byte 0: kind, 0 for a look-up table. 1: version of the header. 4: version of the table. 5: channel axis and bits.
# 6: values a channel. From 16 on: the values.
_HEADER_VERSION, _TABLE_VERSION = 1, 1
_MOST_BITS = 7


def decode_table(packed: Any, table: Any, shape: list[int]) -> tuple[np.ndarray, int]:
    """One tensor.

    Args:
        packed: the indices' bytes, uint8, high bits first.
        table: header and values, uint8.
        shape: of the tensor.

    Returns:
        The values, int8, and the bits of an index.

    Raises:
        FlatbufferError: if TFLM would read past the end of either, or read something else.
    """

    def need(condition: bool, problem: str) -> None:
        if not condition:
            raise FlatbufferError(f"Expected a look-up table that TFLM reads. Received a damaged one: {problem}.")

    need(table is not None and packed is not None, "it has no data")
    need(len(table) > TABLE_HEADER_BYTES, f"its table of {len(table)} bytes has no values")
    versions = int(table[0]), int(table[1]), int(table[4])
    need(versions == (0, _HEADER_VERSION, _TABLE_VERSION), f"kind and versions are {versions}")
    axis, bits, stride = int(table[5]) >> 4, int(table[5]) & 15, int(table[6])
    # Per channel, along the first or the last axis: all that TFLM has.
    need(axis in (0, len(shape) - 1), f"its channels lie along axis {axis} of {shape}")
    need(1 <= bits <= _MOST_BITS, f"its indices have {bits} bits")
    need(1 <= stride <= 1 << bits, f"it has {stride} values a channel for indices of {bits} bits")
    size = math.prod(shape)
    need(8 * len(packed) >= size * bits, f"{len(packed)} bytes are too few for {size} indices of {bits} bits")
    values = np.asarray(table[TABLE_HEADER_BYTES:]).view(np.int8)
    need(
        len(values) >= shape[axis] * stride, f"{len(values)} values are too few for {shape[axis]} channels of {stride}"
    )
    fields = np.unpackbits(np.asarray(packed, np.uint8))[: size * bits].reshape(size, bits)
    indices = (fields << np.arange(bits - 1, -1, -1, dtype=np.uint8)).sum(axis=1, dtype=np.int64).reshape(shape)
    need(size == 0 or int(indices.max()) < stride, f"an index is {int(indices.max(initial=0))} of {stride} values")
    channel = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return values[: len(values) // stride * stride].reshape(-1, stride)[channel, indices], bits
