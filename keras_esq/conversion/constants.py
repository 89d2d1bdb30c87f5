"""The constants of a graph as its operators see them, however they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_esq.runtime.flatbuffer_format import (
    TYPE_BITS,
    FlatbufferError,
    constant,
    constant_bytes,
    items,
    op_name,
    type_name,
)
from keras_esq.runtime.support import DECODE

LOOKUP = "LOOKUP"
TABLE_HEADER_BYTES = 16


@dataclass(frozen=True)
class Stored:
    """A constant that an operator reads.

    Attributes:
        source: number of the tensor that holds its bytes.
        kind: its stored type, such as "INT2"; "LOOKUP" for indices into tables.
        bits: stored bits of an element.
        values: its values, before any scale is applied.
        quantized: the tensor whose quantization turns values into real numbers.
    """

    source: int
    kind: str
    bits: float
    values: np.ndarray
    quantized: Any


def stored_constants(model: Any) -> dict[int, Stored]:
    """{number of a tensor: the constant in it}, those included that one DEQUANTIZE or TFLM_DECODE computes.

    Raises:
        FlatbufferError: if a look-up table is not what TFLM reads.
    """
    tensors = model.subgraphs[0].tensors
    found = {}
    for index, tensor in enumerate(tensors):
        values, kind = constant(model, tensor), type_name(tensor)
        if values is not None:
            found[index] = Stored(index, kind, TYPE_BITS.get(kind, 8), values, tensor)
    for operator in model.subgraphs[0].operators:
        inputs, outputs, op = items(operator.inputs), items(operator.outputs), op_name(model, operator)
        if op == "DEQUANTIZE" and inputs and inputs[0] in found:
            found[outputs[0]] = found[inputs[0]]
        elif op == DECODE:
            if len(inputs) != 2 * len(outputs):
                raise FlatbufferError(f"Expected two inputs for each output of {DECODE}. Received {len(inputs)}.")
            for packed, table, output in zip(inputs[::2], inputs[1::2], outputs, strict=True):
                data, header = (constant_bytes(model, tensors[index]) for index in (packed, table))
                values, bits = _decode(data, header, items(tensors[output].shape))
                found[output] = Stored(packed, LOOKUP, bits, values, tensors[output])
    return found


def _decode(packed: Any, table: Any, shape: list[int]) -> tuple[np.ndarray, int]:
    """One tensor. Byte 5 of the table's header: channel axis and bits; byte 6: values a channel; 16 on: the values."""
    try:
        axis, bits, stride = int(table[5]) >> 4, int(table[5]) & 7, int(table[6])
        size = int(np.prod(shape))
        fields = np.unpackbits(packed)[: size * bits].reshape(size, bits)
        indices = (fields << np.arange(bits - 1, -1, -1, dtype=np.uint8)).sum(axis=1).reshape(shape)
        values = np.asarray(table[TABLE_HEADER_BYTES:]).view(np.int8).reshape(-1, stride)
        channel = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return values[channel, indices], bits
    except (IndexError, TypeError, ValueError) as error:
        raise FlatbufferError(f"Expected a look-up table that TFLM reads. Received a damaged one: {error}.") from error
