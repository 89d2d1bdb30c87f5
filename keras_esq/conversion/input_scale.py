"""The scale of an int8 file's input: that of the bounds, whatever reads the image."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_esq.conversion.alignment import Pair, align, layer_name, quantization
from keras_esq.conversion.constants_check import ConversionError
from keras_esq.conversion.kernels import BIASES, CHANNEL_AXIS, KERNELS
from keras_esq.conversion.writing import add_constant, add_tensor, operator_code
from keras_esq.runtime.flatbuffer_format import _schema, constant, items, op_name, text, type_name

# Operators without kernel that convert from any scale of an input in every runtime, also where that of their output is
# the same by chance: that of a concatenation which reads it. Others convert if the scales of the two differ.
_CONVERTING = ("ADD", "SUB", "MUL", "MEAN", "RELU")

# Calibration data may leave the bounds by float32 rounding, and a zero point that is no whole number is rounded.
_SCALE_RELATIVE, _ZERO_POINT_STEPS = 1e-4, 1


def keep_input_scale(
    model: Any, content: bytes, twin: bytes, bounds: tuple[float, float], layers: Sequence[str], output_layer: str
) -> None:
    """Give the image the scale of the bounds where the converter gave it another, in place.

    A concatenation, maximum or minimum has one range for all its inputs, which the converter carries back through
    pooling, padding, reshaping and resizing to the image, so that 255 levels of a pixel become a few. Here the image
    keeps its own scale and such operators read it through a QUANTIZE. Layers with kernels read the image itself; their
    biases, whose unit is the input's scale times that of the weights, are made anew from the float ones.

    Args:
        model: what `parse(content)` returned.
        content: the int8 file as the converter wrote it.
        twin: the float file of the same network.
        bounds: lowest and highest value of a pixel.
        layers: names of the Keras layers in order of execution.
        output_layer: name of the last of them.
    """
    wrong = [index for index in _images(model) if not _matches(model.subgraphs[0].tensors[index], bounds)]
    pairs = {pair.output[0]: pair for pair in align(content, twin, list(layers), output_layer)} if wrong else {}
    for index in wrong:
        _separate(model, index, bounds, pairs)


def check_input_scale(model: Any, bounds: tuple[float, float], layers: Sequence[str], output_layer: str) -> None:
    """Hold the input's scale to the bounds.

    Args:
        model: what `parse` returned for the int8 file.
        bounds: lowest and highest value of a pixel.
        layers: names of the Keras layers in order of execution.
        output_layer: name of the last of them.

    Raises:
        ConversionError: if it is another one, naming a layer that reads the image.
    """
    graph = model.subgraphs[0]
    for index in {*items(graph.inputs), *_images(model)}:
        tensor = graph.tensors[index]
        if type_name(tensor) != "FLOAT32" and not _matches(tensor, bounds):
            readers = [o for o in graph.operators if index in items(o.inputs)]
            names = {layer_name(model, operator, layers, output_layer): None for operator in readers}
            found = [float(values.reshape(-1)[0]) for values in quantization(tensor)]
            raise ConversionError(
                f"Expected the input to have the scale and zero point of the bounds {bounds}, {_expected(bounds)}. "
                f"The converter gave it {found}, for the sake of what reads the image: "
                f"{', '.join(map(repr, names))}. No file was written. Put a convolution between the image and this "
                "layer, or use target='phone-small' or 'float'."
            )


def _expected(bounds: tuple[float, float]) -> tuple[float, int]:
    """Scale and int8 zero point of the bounds; 0 is always within the range."""
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    scale = (high - low) / 255
    return scale, int(np.floor(-128 - low / scale + 0.5))


def _matches(tensor: Any, bounds: tuple[float, float]) -> bool:
    found, (scale, zero_point) = list(quantization(tensor)), _expected(bounds)
    if type_name(tensor) == "UINT8":
        zero_point += 128
    return len(found) == 2 and bool(
        np.all(np.abs(found[0] - scale) <= _SCALE_RELATIVE * scale)
        and np.all(np.abs(found[1] - zero_point) <= _ZERO_POINT_STEPS)
    )


def _images(model: Any) -> list[int]:
    """Numbers of the int8 tensors that hold the image: the input, or what a QUANTIZE makes of it."""
    graph = model.subgraphs[0]
    entry = items(graph.inputs)[0]
    quantizing = [o for o in graph.operators if entry in items(o.inputs) and op_name(model, o) == "QUANTIZE"]
    found = [entry] if type_name(graph.tensors[entry]) == "INT8" else [items(o.outputs)[0] for o in quantizing]
    return [index for index in found if type_name(graph.tensors[index]) == "INT8"]


def _separate(model: Any, index: int, bounds: tuple[float, float], pairs: dict[int, Pair]) -> None:
    """Give the tensor the scale of the bounds, and the operators that need the old one a QUANTIZE before them."""
    schema, graph = _schema(), model.subgraphs[0]
    scale, zero_point = _expected(bounds)
    image, entry = graph.tensors[index], graph.tensors[items(graph.inputs)[0]]
    old = add_tensor(model, copy.copy(image), name=f"{text(image.name)}/QUANTIZE")
    for tensor, shift in ((image, 0), (entry, 128)) if type_name(entry) == "UINT8" else ((image, 0),):
        tensor.quantization = schema.QuantizationParametersT(
            scale=np.array([scale], np.float32), zeroPoint=np.array([zero_point + shift], np.int64)
        )
    readers = [o for o in graph.operators if index in items(o.inputs)]
    others = [o for o in readers if not _reads_any_scale(model, o, index, old, pairs)]
    for operator in others:
        operator.inputs = np.array([old if i == index else i for i in items(operator.inputs)], np.int32)
    if others:
        first = next(position for position, o in enumerate(graph.operators) if o is others[0])
        code, ends = operator_code(model, "QUANTIZE", 1), (np.array([i], np.int32) for i in (index, old))
        graph.operators.insert(first, schema.OperatorT(code, *ends))


def _reads_any_scale(model: Any, operator: Any, index: int, old: int, pairs: dict[int, Pair]) -> bool:
    """Whether an operator can read the image in its new scale; its bias is put into the new unit."""
    if op_name(model, operator) in KERNELS:
        return rescale_bias(model, operator, index, pairs.get(items(operator.outputs)[0]))
    tensors = model.subgraphs[0].tensors
    before, *after = (list(quantization(tensors[i])) for i in (old, *items(operator.outputs)))
    return op_name(model, operator) in _CONVERTING or before not in after


def rescale_bias(model: Any, operator: Any, index: int, pair: Pair | None) -> bool:
    """Put the bias of an operator into the unit of its input's new scale, in place.

    Args:
        model: the graph's `ModelT`.
        operator: one of its operators with a kernel.
        index: number of the input's tensor.
        pair: the operator in both files, for its float bias.

    Returns:
        Whether that was possible.
    """
    op, inputs, tensors = op_name(model, operator), items(operator.inputs), model.subgraphs[0].tensors
    position, last = KERNELS[op], BIASES[op]
    if inputs[position] == index or (kernel := constant(model, tensors[inputs[position]])) is None:
        return False
    if len(inputs) <= last or inputs[last] < 0:
        return True
    weights, bias = tensors[inputs[position]], tensors[inputs[last]]
    values, real = constant(model, bias), pair.constants[-1][2] if pair and pair.constants else None
    if values is None or real is None or values.shape != real.shape:
        return False
    scale = tensors[index].quantization.scale
    # A filter of weights that are almost 0 gets a coarser unit, so that its bias fits, as the converter does it.
    largest = np.abs(real) / (scale * weights.quantization.scale) / np.iinfo(np.int32).max
    if largest.max(initial=0.0) >= 1.0:
        weights = _coarser(model, operator, kernel, np.maximum(largest * (1 + 1e-6), 1.0))
    # As the runtimes multiply them, in float32.
    unit = scale * np.asarray(weights.quantization.scale, np.float32)
    steps = np.rint(real.astype(np.float64) / unit).astype(values.dtype)
    inputs = items(operator.inputs)
    inputs[last] = add_constant(model, bias, type_name(bias), steps.view(np.uint8))
    tensors[inputs[last]].quantization.scale = unit
    operator.inputs = np.array(inputs, np.int32)
    return True


def _coarser(model: Any, operator: Any, kernel: np.ndarray, factors: np.ndarray) -> Any:
    """The tensor of an operator's new kernel, whose scale is larger by a factor a channel."""
    op, inputs, tensors = op_name(model, operator), items(operator.inputs), model.subgraphs[0].tensors
    old, position = tensors[inputs[KERNELS[op]]], KERNELS[op]
    factors = factors if len(old.quantization.scale) > 1 else factors.max(keepdims=True)
    shape = [1] * kernel.ndim
    shape[CHANNEL_AXIS.get(op, 0)] = factors.size
    values = np.rint(kernel / factors.reshape(shape)).astype(kernel.dtype)
    inputs[position] = add_constant(model, old, type_name(old), values.reshape(-1).view(np.uint8))
    operator.inputs = np.array(inputs, np.int32)
    tensors[inputs[position]].quantization.scale = (old.quantization.scale * factors).astype(np.float32)
    return tensors[inputs[position]]
