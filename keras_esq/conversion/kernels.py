"""The kernels of a .tflite graph: which operators have one, where it lies, whether it is low-bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_esq.conversion.alignment import layer_name
from keras_esq.runtime.flatbuffer_format import constant, items, op_name

# Operators with a kernel, and the position of the kernel among their inputs. Biases come right after it.
KERNELS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "CONV_3D": 1}
# The axis of the output channels in a kernel; the others have them first.
CHANNEL_AXIS = {"DEPTHWISE_CONV_2D": 3, "CONV_3D": 4}

# Full scale of a per-channel int8 weight: what the converter stores for the largest weight of a channel.
FULL_SCALE = 127


@dataclass(frozen=True)
class Kernel:
    """A constant kernel and one operator that reads it.

    Attributes:
        layer: the Keras layer.
        op: name of the operator.
        operator: the operator's object.
        position: position of the kernel among the operator's inputs.
        tensor: number of the kernel's tensor.
        axis: axis of the output channels.
        values: the stored values in the kernel's shape.
    """

    layer: str
    op: str
    operator: Any
    position: int
    tensor: int
    axis: int
    values: np.ndarray

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
    graph = model.subgraphs[0]
    for operator in graph.operators:
        op = op_name(model, operator)
        inputs = items(operator.inputs)
        if op not in KERNELS or len(inputs) <= KERNELS[op]:
            continue
        values = constant(model, graph.tensors[inputs[KERNELS[op]]])
        if values is not None:
            layer = layer_name(model, operator, layers, output_layer)
            yield Kernel(layer, op, operator, KERNELS[op], inputs[KERNELS[op]], CHANNEL_AXIS.get(op, 0), values)


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
