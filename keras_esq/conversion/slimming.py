"""What a rewritten graph does not need: the converter's notes, long names, quantization that nobody reads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from keras_esq.conversion.alignment import kernel_layer, layer_name, layer_of, quantization
from keras_esq.conversion.constants import stored_constants
from keras_esq.conversion.kernels import KERNELS
from keras_esq.runtime.flatbuffer_format import constant_bytes, items, op_name, text, type_name

# The oldest runtime and the settings of the converter, both of a graph that was rewritten since.
_STALE = ("min_runtime_version", "CONVERSION_METADATA")


def slim(model: Any, layers: Sequence[str], output_layer: str) -> None:
    """Name the tensors of a graph after layer and operator, and drop the converter's notes on it, in place.

    The converter's names list all operators that were fused, 80 to 200 bytes a tensor.

    Args:
        model: the `ModelT`.
        layers: names of the Keras layers in order of execution.
        output_layer: name of the last of them.
    """
    model.metadata = [entry for entry in model.metadata or [] if text(entry.name) not in _STALE]
    graph = model.subgraphs[0]
    names: dict[int, str] = {}
    decoded = {i for i in stored_constants(model) if constant_bytes(model, graph.tensors[i]) is None}
    for tensor in graph.tensors:
        if tensor.quantization is not None and not list(quantization(tensor)):
            tensor.quantization = None
    computed = {i for operator in graph.operators for i in items(operator.outputs)} - decoded
    # From the last to the first, so that a decoded kernel is named after its reader, not after DEQUANTIZE.
    for operator in reversed(graph.operators):
        outputs, inputs, op = items(operator.outputs), items(operator.inputs), op_name(model, operator)
        if outputs[0] in decoded and outputs[0] in names:
            for index in inputs:
                names.setdefault(index, names[outputs[0]])
            continue
        layer = owner = layer_name(model, operator, layers, output_layer)
        if op in KERNELS:
            owner = kernel_layer(model, operator, inputs[KERNELS[op]], layers, output_layer)
        # What another operator computes is named after that one.
        constants = [index for index in inputs[1:] if index not in computed]
        for one, indices in ((layer, outputs), (owner, constants)):
            if layer_of(name := f"{one}/{op}", layers) == one:
                for index in indices:
                    names.setdefault(index, name)
    for index in {*items(graph.inputs), *items(graph.outputs), -1}:
        names.pop(index, None)
    for index, name in names.items():
        graph.tensors[index].name = name


def drop_bias_scales(model: Any) -> None:
    """Drop the quantization of per-channel biases, in place: 4 bytes a channel.

    TFLM takes a bias in units of input scale times weight scale and reads the bias' own scale for per-tensor weights
    only. XNNPACK refuses a bias without scale, so this is for microcontrollers.
    """
    graph = model.subgraphs[0]
    for operator in graph.operators:
        for index in items(operator.inputs)[2:]:
            if index < 0 or type_name(graph.tensors[index]) != "INT32":
                continue
            if any(scale.size > 1 for scale in quantization(graph.tensors[index])):
                graph.tensors[index] = copy.copy(graph.tensors[index])
                graph.tensors[index].quantization = None
