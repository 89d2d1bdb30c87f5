"""The kernels of a .tflite graph: which operators have one, where it lies, whether it is low-bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_esq.conversion.alignment import kernel_layer
from keras_esq.conversion.constants import Stored, stored_constants
from keras_esq.quantize.functions import FULL_SCALE
from keras_esq.runtime.flatbuffer_format import items, op_name

# Operators with a kernel, and the positions of kernel and bias among their inputs.
KERNELS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "CONV_3D": 1}
BIASES = {**dict.fromkeys(KERNELS, 2), "TRANSPOSE_CONV": 3}
# The axis of the output channels in a kernel; the others have them first.
CHANNEL_AXIS = {"DEPTHWISE_CONV_2D": 3, "CONV_3D": 4}


@dataclass(frozen=True)
class Kernel:
    """A constant kernel and one operator that reads it.

    Attributes:
        layer: the Keras layer that owns it.
        op: name of the operator.
        operator: the operator's object.
        position: position of the kernel among the operator's inputs.
        tensor: number of the kernel's tensor, as the operator sees it.
        axis: axis of the output channels.
        stored: the kernel as it is stored.
    """

    layer: str
    op: str
    operator: Any
    position: int
    tensor: int
    axis: int
    stored: Stored

    @property
    def values(self) -> np.ndarray:
        """The stored values, before any scale, in the kernel's shape."""
        return self.stored.values

    @property
    def channels(self) -> np.ndarray:
        """The values as one row a channel."""
        return np.moveaxis(self.values, self.axis, 0).reshape(self.values.shape[self.axis], -1)


def kernels(model: Any, layers: Sequence[str], output_layer: str) -> Iterator[Kernel]:
    """The constant kernels of a graph in order of execution; a shared one comes once an operator.

    Args:
        model: what `parse` returned.
        layers: names of the Keras layers in order of execution.
        output_layer: name of the last of them.
    """
    graph, stored = model.subgraphs[0], stored_constants(model)
    for operator in graph.operators:
        op = op_name(model, operator)
        inputs = items(operator.inputs)
        if op not in KERNELS or len(inputs) <= KERNELS[op]:
            continue
        index = inputs[KERNELS[op]]
        if index in stored:
            layer = kernel_layer(model, operator, index, layers, output_layer)
            yield Kernel(layer, op, operator, KERNELS[op], index, CHANNEL_AXIS.get(op, 0), stored[index])


def is_low_bit(values: np.ndarray) -> bool:
    """Whether an int8 kernel holds nothing but -127, 0 and 127, as those of binary and ternary layers do."""
    return values.dtype == np.int8 and bool(np.isin(values, (-FULL_SCALE, 0, FULL_SCALE)).all())


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Signed values as fields of `bits` bits, low bits first, in whole bytes (uint8)."""
    per_byte = 8 // bits
    fields = values.reshape(-1).astype(np.uint8) & ((1 << bits) - 1)
    fields = np.pad(fields, (0, -len(fields) % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(fields << shifts, axis=1).astype(np.uint8)


def layer_bits(model: Any, layers: Sequence[str], output_layer: str) -> dict[str, float]:
    """{Keras layer that owns kernels: stored bits of a weight, of the largest kernel if it has several}."""
    largest: dict[str, Kernel] = {}
    for kernel in kernels(model, layers, output_layer):
        if kernel.layer not in largest or kernel.values.size > largest[kernel.layer].values.size:
            largest[kernel.layer] = kernel
    return {name: kernel.stored.bits for name, kernel in largest.items()}
