"""Target "phone-small": every low-bit kernel in 2 bits, decoded to float when the graph runs."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_esq.conversion.alignment import quantization
from keras_esq.conversion.constants import stored_constants
from keras_esq.conversion.kernels import Kernel, kernels, pack
from keras_esq.conversion.writing import add_constant, add_tensor, operator_code, serialize
from keras_esq.quantize.functions import FULL_SCALE
from keras_esq.runtime.flatbuffer_format import _schema, items, op_name, parse

# Version 1 is the one that every runtime with INT2 takes; its int8 sibling is per channel from 5 on.
_DEQUANTIZE_VERSIONS = {2: 1, 8: 5}

# Runtimes want a zero point of 8 bytes a channel beside the scales, all 0. Kernels of equal channels share them; for
# one that has none to share with, a MUL by the scales is smaller from about 20 channels on. It costs a pass over the
# kernel in each inference (2 to 5 % of that of the 1x1-heavy network), so it has to be worth it.
_ZERO_POINT_BYTES = 8
_WORTH_BYTES = 1000

# A folded ternary weight is off its channel's scale by the rounding of a few float32 products.
_ROUNDING = 1e-5


def dequantize_kernels(model: Any, layers: Sequence[str], output_layer: str) -> bool:
    """Store the kernels of a float graph in 2 bits if they are low-bit, else in int8, in place.

    Each is decoded by a DEQUANTIZE when the graph runs, so that every operator can read it.

    Args:
        model: the `ModelT` of the float file.
        layers: names of the Keras layers in order of execution.
        output_layer: name of the last of them.

    Returns:
        Whether every kernel is stored exactly, to float rounding.
    """
    schema, graph = _schema(), model.subgraphs[0]
    decoded: dict[tuple[int, int], int] = {}
    exact, operators = True, []
    found = list(kernels(model, layers, output_layer))
    owners = Counter(size for _, size in {(kernel.tensor, len(kernel.channels)) for kernel in found})

    def add(reader: Any, name: str, version: int, inputs: list[int], like: Any, options: Any = None) -> int:
        """Add an operator before its reader and return the number of its output."""
        output = add_tensor(model, copy.copy(like), buffer=0)
        operator = schema.OperatorT(
            opcodeIndex=operator_code(model, name, version),
            inputs=np.array(inputs, np.int32),
            outputs=np.array([output], np.int32),
        )
        if options is not None:
            operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.MulOptions, options
        operators.append((reader, operator))
        return output

    for kernel in found:
        key = (kernel.tensor, kernel.axis)
        if key not in decoded:
            scale, steps, bits = _quantize(kernel)
            exact = exact and bits == 2
            like, reader = graph.tensors[kernel.tensor], kernel.operator
            alone = owners[len(scale)] == 1 and _ZERO_POINT_BYTES * len(scale) >= _WORTH_BYTES
            quantization = schema.QuantizationParametersT(
                scale=np.ones(1, np.float32) if alone else scale,
                zeroPoint=np.zeros(1 if alone else len(scale), np.int64),
                quantizedDimension=0 if alone else kernel.axis,
            )
            source = add_constant(model, like, f"INT{bits}", pack(steps, bits))
            graph.tensors[source].quantization = quantization
            decoded[key] = add(reader, "DEQUANTIZE", _DEQUANTIZE_VERSIONS[bits], [source], like)
            if alone:
                shape = [1] * kernel.values.ndim
                shape[kernel.axis] = len(scale)
                factor = add_constant(model, like, "FLOAT32", scale.view(np.uint8), shape=np.array(shape, np.int32))
                decoded[key] = add(reader, "MUL", 1, [decoded[key], factor], like, schema.MulOptionsT())
        inputs = items(kernel.operator.inputs)
        inputs[kernel.position] = decoded[key]
        kernel.operator.inputs = np.array(inputs, np.int32)
    for reader, operator in operators:
        graph.operators.insert(next(i for i, o in enumerate(graph.operators) if o is reader), operator)
    return exact


def _quantize(kernel: Kernel) -> tuple[np.ndarray, np.ndarray, int]:
    """(scale of each channel, values in the kernel's shape, bits) of a float kernel."""
    channels = kernel.channels.astype(np.float64)
    largest = np.abs(channels).max(axis=1, initial=0.0)
    scale = np.where(largest > 0, largest, 1.0)[:, None]
    # The mean of the magnitudes is nearer to the true scale than their largest.
    kept = np.abs(channels) > 0.5 * scale
    total, count = np.abs(channels * kept).sum(axis=1), kept.sum(axis=1)
    mean = np.divide(total, count, out=np.ones(len(scale)), where=count > 0)
    steps = np.sign(channels) * kept
    if np.all(np.abs(channels - steps * mean[:, None]) <= _ROUNDING * scale):
        chosen, bits = mean, 2
    else:
        chosen, bits = scale[:, 0] / FULL_SCALE, 8
        steps = np.rint(channels / chosen[:, None])
    shape = np.moveaxis(kernel.values, kernel.axis, 0).shape
    return chosen.astype(np.float32), np.moveaxis(steps.reshape(shape), 0, kernel.axis).astype(np.int8), bits


def with_float_kernels(content: bytes) -> bytes:
    """The file that `dequantize_kernels` made, with the decoded kernels as float constants."""
    model = parse(content)
    graph, stored = model.subgraphs[0], stored_constants(model)
    operators = []
    for operator in graph.operators:
        outputs = items(operator.outputs)
        if op_name(model, operator) not in ("DEQUANTIZE", "MUL") or outputs[0] not in stored:
            operators.append(operator)
            continue
        one = stored[outputs[0]]
        scale, zero_point = quantization(one.quantized)
        real = ((one.values.astype(np.float32) - zero_point) * scale).astype(np.float32)
        model.buffers.append(_schema().BufferT(data=real.reshape(-1).view(np.uint8)))
        graph.tensors[outputs[0]].buffer = len(model.buffers) - 1
    graph.operators = operators
    # Another file than the one that the metadata speaks of.
    model.metadata = None
    return serialize(model)
