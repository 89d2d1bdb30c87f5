"""The constants of a graph as its operators see them, however they are stored."""

from __future__ import annotations

import copy
import dataclasses
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
from keras_esq.runtime.lookup_format import decode_table
from keras_esq.runtime.support import DECODE

LOOKUP = "LOOKUP"


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
    """{number of a tensor: the constant in it}, those included that DEQUANTIZE (and MUL) or TFLM_DECODE computes.

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
        elif op == "MUL" and all(index in found for index in inputs) and constant(model, tensors[inputs[0]]) is None:
            found[outputs[0]] = _scaled(found[inputs[0]], found[inputs[1]].values, tensors[outputs[0]])
        elif op == DECODE:
            if len(inputs) != 2 * len(outputs):
                raise FlatbufferError(f"Expected two inputs for each output of {DECODE}. Received {len(inputs)}.")
            for packed, table, output in zip(inputs[::2], inputs[1::2], outputs, strict=True):
                data, header = (constant_bytes(model, tensors[index]) for index in (packed, table))
                values, bits = decode_table(data, header, items(tensors[output].shape))
                found[output] = Stored(packed, LOOKUP, bits, values, tensors[output])
    return found


def _scaled(kernel: Stored, factors: np.ndarray, output: Any) -> Stored:
    """A decoded kernel times one factor a channel, as if it had these scales itself."""
    scaled = copy.copy(output)
    scaled.quantization = copy.copy(kernel.quantized.quantization)
    scaled.quantization.scale = factors.reshape(-1).astype(np.float32) * kernel.quantized.quantization.scale
    scaled.quantization.quantizedDimension = int(np.argmax(factors.shape))
    return dataclasses.replace(kernel, quantized=scaled)
