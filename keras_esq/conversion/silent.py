"""Layers whose outputs are 0 on all calibration data, as those of a ReLU that training has switched off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_esq.conversion.alignment import Pair, align, layer_name, quantization
from keras_esq.conversion.input_scale import rescale_bias
from keras_esq.conversion.kernels import CHANNEL_AXIS, KERNELS
from keras_esq.conversion.writing import add_constant
from keras_esq.quantize.functions import FULL_SCALE
from keras_esq.runtime.flatbuffer_format import _schema, items, op_name, type_name

# TensorFlow takes a range of -1e-6 to 1e-6 for what is always 0, with room for float32 rounding.
_NOTHING = 2e-6 / 255 * (1 + 1e-3)

# What is taken instead: values up to 1, as BatchNormalization makes them.
_SCALE = 1 / FULL_SCALE


def widen_silent(model: Any, content: bytes, twin: bytes, layers: Sequence[str], output_layer: str) -> list[str]:
    """Give what is 0 on all calibration data a range of -1 to 1, in place.

    In steps of 1e-8 the sums of the layer itself overflow, and the biases of the next one don't fit beside its weights,
    which TensorFlow then rounds to 0. The weights are made anew from the float ones.

    Args:
        model: the graph's `ModelT`.
        content: the int8 file as the converter wrote it.
        twin: the float file of the same network.
        layers: names of the Keras layers in order of execution.
        output_layer: name of the last of them.

    Returns:
        The names of the layers.
    """
    graph, found = model.subgraphs[0], {}
    for operator in graph.operators:
        for index in items(operator.outputs):
            scales = list(quantization(graph.tensors[index]))
            if type_name(graph.tensors[index]) == "INT8" and scales and scales[0].max() <= _NOTHING:
                found[index] = layer_name(model, operator, layers, output_layer)
    pairs = {pair.output[0]: pair for pair in align(content, twin, list(layers), output_layer)} if found else {}
    for index in found:
        graph.tensors[index].quantization = _schema().QuantizationParametersT(
            scale=np.array([_SCALE], np.float32), zeroPoint=np.zeros(1, np.int64)
        )
        for operator in graph.operators:
            pair = pairs.get(items(operator.outputs)[0])
            if op_name(model, operator) in KERNELS and index in items(operator.inputs) and pair and pair.constants:
                _renew_kernel(model, operator, pair)
                rescale_bias(model, operator, index, pair)
    return list(dict.fromkeys(found.values()))


def _renew_kernel(model: Any, operator: Any, pair: Pair) -> None:
    """Put a kernel back to the scale of its own weights."""
    op, inputs, tensors = op_name(model, operator), items(operator.inputs), model.subgraphs[0].tensors
    position, axis = KERNELS[op], CHANNEL_AXIS.get(op, 0)
    old = tensors[inputs[position]]
    real = next((values for _, _, values, _ in pair.constants if values.ndim > 1), None)
    if real is None:
        return
    inside = tuple(i for i in range(real.ndim) if i != axis) if len(old.quantization.scale) > 1 else None
    largest = np.abs(real).max(axis=inside, keepdims=True)
    scale = (np.where(largest > 0, largest, FULL_SCALE) / FULL_SCALE).astype(np.float32)
    values = np.rint(real / scale).astype(np.int8)
    inputs[position] = add_constant(model, old, type_name(old), values.reshape(-1).view(np.uint8))
    tensors[inputs[position]].quantization.scale = scale.reshape(-1)
    operator.inputs = np.array(inputs, np.int32)
