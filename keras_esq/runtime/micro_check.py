"""What TFLM takes on trust in a file, verified before it sees the bytes: each operator's shapes, types and attributes.

TFLM leaves checks out to stay small. A kernel that is larger than its tensor, a stride of 0 or an index past a look-up
table then reads or writes past the end of memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_esq.runtime.flatbuffer_format import (
    FlatbufferError,
    constant,
    constant_bytes,
    items,
    op_name,
    text,
    type_name,
)
from keras_esq.runtime.lookup_format import decode_table
from keras_esq.runtime.support import DECODE

_TYPES = ("INT8", "UINT8", "INT16", "INT32", "INT64", "FLOAT32", "BOOL", "INT4")
_LARGEST_TENSOR, _MOST_AXES, _LARGEST_STRIDE = 1 << 28, 5, 1 << 12
_SCALES = (1e-20, 1e20)
# Type of the bias by that of the input.
_BIAS = {"INT8": ("INT32",), "INT16": ("INT64", "INT32"), "FLOAT32": ("FLOAT32",)}
_PADDING_SAME = 0
# NONE, RELU, RELU_N1_TO_1, RELU6.
_ACTIVATIONS = range(4)
_PLANS = ("OfflineMemoryAllocation", "COMPRESSION_METADATA")


class _Node:
    """An operator and its tensors.

    Attributes:
        model: what `parse` returned.
        op: the operator's name.
        inputs: its input tensors; None for one that is left out.
        outputs: its output tensors.
        options: its attributes, or None.
    """

    def __init__(self, model: Any, operator: Any) -> None:
        tensors = model.subgraphs[0].tensors
        self.model, self.op, self.options = model, op_name(model, operator), operator.builtinOptions
        self.inputs: list[Any] = [tensors[i] if i >= 0 else None for i in items(operator.inputs)]
        self.outputs = [tensors[i] for i in items(operator.outputs)]

    def need(self, condition: bool, problem: str) -> None:
        """Refuse the file unless a condition holds."""
        if not condition:
            raise FlatbufferError(f"{self.op} {text(self.outputs[0].name) if self.outputs else ''!r} {problem}")

    def shape(self, position: int) -> list[int]:
        """Shape of an input, which must be there."""
        self.need(position < len(self.inputs) and self.inputs[position] is not None, f"has no input {position}")
        return items(self.inputs[position].shape)

    def kind(self, position: int) -> str:
        """Type of an input."""
        self.shape(position)
        return type_name(self.inputs[position])

    @property
    def out(self) -> list[int]:
        """Shape of the first output."""
        return items(self.outputs[0].shape)

    def constant(self, position: int, kind: str = "INT32") -> np.ndarray:
        """Values of an input, which must be a constant of that type."""
        self.need(self.kind(position) == kind, f"has an input {position} of type {self.kind(position)}, not {kind}")
        values = constant(self.model, self.inputs[position])
        self.need(values is not None, f"has an input {position} that is not constant")
        return np.asarray(values)

    def attributes(self, name: str) -> Any:
        """The options, which must be of that class."""
        self.need(type(self.options).__name__ == f"{name}T", f"lacks its attributes, {name}")
        activation = getattr(self.options, "fusedActivationFunction", 0)
        self.need(activation in _ACTIVATIONS, f"has the unknown activation {activation}")
        return self.options

    def gives(self, shape: list[int]) -> None:
        """Hold the first output to a shape."""
        self.need(self.out == shape, f"has an output of shape {self.out}, not {shape}")

    def counts(self, inputs: tuple[int, ...], outputs: int = 1) -> None:
        """Hold the operator to its numbers of inputs and outputs."""
        found = len(self.inputs), len(self.outputs)
        self.need(found[0] in inputs and found[1] == outputs, f"has {found[0]} inputs and {found[1]} outputs")

    def same_types(self, positions: tuple[int, ...]) -> None:
        """Hold inputs to the type of the output."""
        kinds = [self.kind(position) for position in positions] + [type_name(self.outputs[0])]
        self.need(len(set(kinds)) == 1, f"mixes the types {', '.join(kinds)}")


def _window(node: _Node, size: list[int], options: Any, dilation: tuple[int, int] = (1, 1)) -> list[int]:
    """Height and width that a window of a size gives."""
    result = []
    strides = (options.strideH, options.strideW)
    for length, window, stride, step in zip(node.shape(0)[1:3], size, strides, dilation, strict=True):
        node.need(
            1 <= stride <= _LARGEST_STRIDE and 1 <= step <= _LARGEST_STRIDE, "has a stride or dilation out of range"
        )
        node.need(window >= 1 and options.padding in (0, 1), "has an empty window or an unknown padding")
        covered = 1 if options.padding == _PADDING_SAME else (window - 1) * step + 1
        node.need(covered <= length, "has a window that is larger than its input")
        result.append((length - covered) // stride + 1)
    return result


def _bias(node: _Node, position: int, channels: int) -> None:
    if position < len(node.inputs) and node.inputs[position] is not None:
        kinds = _BIAS.get(node.kind(0), ())
        node.need(node.kind(position) in kinds, f"has a bias of type {node.kind(position)}")
        node.need(math.prod(node.shape(position)) == channels, f"has a bias of {node.shape(position)}, not {channels}")


def _kernel(node: _Node, channels: int, axis: int) -> None:
    node.same_types((0,))
    allowed = {"INT8": ("INT8", "INT4"), "INT16": ("INT8",), "FLOAT32": ("FLOAT32",)}.get(node.kind(0), ())
    node.need(node.kind(1) in allowed, f"has a kernel of type {node.kind(1)} for inputs of type {node.kind(0)}")
    if node.kind(0) != "FLOAT32":
        stored = node.inputs[1].quantization
        count = 0 if stored is None or stored.scale is None else len(stored.scale)
        node.need(count in (1, channels), f"has a kernel of {count} scales for {channels} channels")
        node.need(count == 1 or (stored.quantizedDimension or 0) == axis, "has scales along the wrong axis")


def _rank(node: _Node, positions: tuple[int, ...], rank: int) -> None:
    for position in positions:
        node.need(len(node.shape(position)) == rank, f"has an input {position} of shape {node.shape(position)}")


def _convolution(node: _Node) -> None:
    node.counts((2, 3))
    options = node.attributes("Conv2DOptions")
    _rank(node, (0, 1), 4)
    batch, *_, channels = node.shape(0)
    filters, height, width, depth = node.shape(1)
    node.need(channels % depth == 0 and filters % (channels // depth) == 0, "has a kernel of other channels")
    size = _window(node, [height, width], options, (options.dilationHFactor, options.dilationWFactor))
    node.gives([batch, *size, filters])
    _kernel(node, filters, 0)
    _bias(node, 2, filters)


def _depthwise(node: _Node) -> None:
    node.counts((2, 3))
    options = node.attributes("DepthwiseConv2DOptions")
    _rank(node, (0, 1), 4)
    batch, *_, channels = node.shape(0)
    one, height, width, filters = node.shape(1)
    node.need(one == 1 and filters == channels * options.depthMultiplier, "has a kernel of other channels")
    size = _window(node, [height, width], options, (options.dilationHFactor, options.dilationWFactor))
    node.gives([batch, *size, filters])
    _kernel(node, filters, 3)
    _bias(node, 2, filters)


def _transposed(node: _Node) -> None:
    node.counts((3, 4))
    options = node.attributes("TransposeConvOptions")
    _rank(node, (1, 2), 4)
    shape = node.constant(0).reshape(-1).tolist()
    node.gives(shape)
    filters, height, width, depth = node.shape(1)
    batch, *size, channels = node.shape(2)
    node.need(depth == channels and [shape[0], shape[3]] == [batch, filters], "has a kernel of other channels")
    # Its input is what a convolution makes of its output.
    inverse = _Node.__new__(_Node)
    inverse.__dict__.update(node.__dict__, inputs=node.outputs)
    node.need(_window(inverse, [height, width], options) == size, f"has an output of shape {shape} for {size}")
    inverse.inputs, inverse.outputs = [node.inputs[2], node.inputs[1], *node.inputs[3:]], node.outputs
    _kernel(inverse, filters, 0)
    _bias(inverse, 2, filters)


def _dense(node: _Node) -> None:
    node.counts((2, 3))
    options = node.attributes("FullyConnectedOptions")
    node.need(not options.weightsFormat, "has weights in another format")
    _rank(node, (1,), 2)
    units, depth = node.shape(1)
    total = math.prod(node.shape(0))
    node.need(node.shape(0)[-1:] == [depth] or total == depth * (total // depth), "has a kernel of other inputs")
    node.need(total % depth == 0 and math.prod(node.out) == total // depth * units, f"has an output of {node.out}")
    node.need(node.out[-1:] == [units], f"has an output of {node.out}")
    _kernel(node, units, 0)
    _bias(node, 2, units)


def _pool(node: _Node) -> None:
    node.counts((1,))
    options = node.attributes("Pool2DOptions")
    node.same_types((0,))
    _rank(node, (0,), 4)
    node.need(max(options.filterHeight, options.filterWidth) <= _LARGEST_STRIDE, "has a window out of range")
    size = _window(node, [options.filterHeight, options.filterWidth], options)
    node.gives([node.shape(0)[0], *size, node.shape(0)[3]])


def _binary(options: str) -> Callable[[_Node], None]:
    def check(node: _Node) -> None:
        node.counts((2,))
        if node.options is not None:
            node.attributes(options)
        node.same_types((0, 1))
        try:
            shape = np.broadcast_shapes(node.shape(0), node.shape(1))
        except ValueError:
            shape = ()
        node.gives(list(shape))

    return check


def _same_shape(node: _Node) -> None:
    node.counts((1,))
    node.gives(node.shape(0))
    if node.op not in ("QUANTIZE", "DEQUANTIZE"):
        node.same_types((0,))


def _same_size(node: _Node) -> None:
    node.counts((1, 2))
    node.same_types((0,))
    node.need(math.prod(node.out) == math.prod(node.shape(0)), f"turns {node.shape(0)} into {node.out}")


def _reduce(node: _Node) -> None:
    node.counts((2,))
    keep = node.attributes("ReducerOptions").keepDims
    node.same_types((0,))
    shape, axes = node.shape(0), node.constant(1).reshape(-1).tolist()
    node.need(all(-len(shape) <= axis < len(shape) for axis in axes), f"reduces the axes {axes} of {shape}")
    reduced = {axis % len(shape) for axis in axes}
    left = [1 if axis in reduced else size for axis, size in enumerate(shape) if keep or axis not in reduced]
    node.gives(left)


def _pad(node: _Node) -> None:
    node.counts((2, 3))
    node.same_types((0,))
    shape, padding = node.shape(0), node.constant(1)
    good = list(padding.shape) == [len(shape), 2] and padding.min() >= 0 and len(shape) <= 4
    node.need(good, f"has the padding {padding.tolist()} for {shape}")
    node.gives([size + int(sum(pair)) for size, pair in zip(shape, padding.tolist(), strict=True)])
    if len(node.inputs) == 3:
        node.same_types((2,))
        node.need(math.prod(node.shape(2)) == 1, "pads with more than one value")


def _concatenation(node: _Node) -> None:
    node.need(1 <= len(node.inputs) <= 10 and len(node.outputs) == 1, f"has {len(node.inputs)} inputs")
    axis = node.attributes("ConcatenationOptions").axis
    shapes = [node.shape(position) for position in range(len(node.inputs))]
    node.same_types(tuple(range(len(shapes))))
    rank = len(shapes[0])
    node.need(-rank <= axis < rank and all(len(shape) == rank for shape in shapes), f"joins {shapes} along {axis}")
    axis %= rank
    expected = [sum(sizes) if i == axis else sizes[0] for i, sizes in enumerate(zip(*shapes, strict=True))]
    for shape in shapes:
        node.need(shape[:axis] + shape[axis + 1 :] == expected[:axis] + expected[axis + 1 :], f"joins {shapes}")
    node.gives(expected)


def _transpose(node: _Node) -> None:
    node.counts((2,))
    node.same_types((0,))
    shape, order = node.shape(0), node.constant(1).reshape(-1).tolist()
    node.need(sorted(order) == list(range(len(shape))), f"has the order {order} for {shape}")
    node.gives([shape[axis] for axis in order])


def _resize(node: _Node) -> None:
    node.counts((2,))
    node.same_types((0,))
    _rank(node, (0,), 4)
    node.gives([node.shape(0)[0], *node.constant(1).reshape(-1).tolist(), node.shape(0)[3]])


def _decode(node: _Node) -> None:
    node.need(len(node.inputs) == 2 * len(node.outputs) > 0, f"has {len(node.inputs)} inputs")
    for number, output in enumerate(node.outputs):
        parts = [node.inputs[2 * number + i] for i in range(2)]
        node.need(all(part is not None for part in parts), "lacks an input")
        data = [constant_bytes(node.model, part) for part in parts]
        node.need(all(one is not None for one in data), "has an input that is not constant")
        node.need(type_name(output) == "INT8", f"writes {type_name(output)}")
        decode_table(data[0], data[1], items(output.shape))


_RULES: dict[str, Callable[[_Node], None]] = {
    "CONV_2D": _convolution, "DEPTHWISE_CONV_2D": _depthwise, "TRANSPOSE_CONV": _transposed, "FULLY_CONNECTED": _dense,
    "AVERAGE_POOL_2D": _pool, "MAX_POOL_2D": _pool, "ADD": _binary("AddOptions"), "SUB": _binary("SubOptions"),
    "MUL": _binary("MulOptions"), "MAXIMUM": _binary("MaximumMinimumOptions"),
    "MINIMUM": _binary("MaximumMinimumOptions"), "RESHAPE": _same_size, "SQUEEZE": _same_size,
    "EXPAND_DIMS": _same_size, "MEAN": _reduce, "SUM": _reduce, "REDUCE_MAX": _reduce, "PAD": _pad, "PADV2": _pad,
    "CONCATENATION": _concatenation, "TRANSPOSE": _transpose, "RESIZE_NEAREST_NEIGHBOR": _resize,
    "RESIZE_BILINEAR": _resize, DECODE: _decode,
    **dict.fromkeys((
        "RELU", "RELU6", "LOGISTIC", "TANH", "HARD_SWISH", "LEAKY_RELU", "ELU", "SOFTMAX", "QUANTIZE", "DEQUANTIZE",
    ), _same_shape),
}  # fmt: skip


def check_micro(model: Any) -> None:
    """Verify a graph for TFLM, operator by operator.

    Args:
        model: what `parse` returned.

    Raises:
        FlatbufferError: naming the operator and what is inconsistent in it, or that nothing is known of it.
    """
    if len(model.subgraphs) != 1:
        raise FlatbufferError(f"it has {len(model.subgraphs)} graphs, and keras_esq verifies files of one")
    graph = model.subgraphs[0]
    for entry in model.metadata or []:
        if text(entry.name) in _PLANS:
            raise FlatbufferError(f"it has the metadata {text(entry.name)!r}, which keras_esq can't verify")
    for tensor in graph.tensors:
        _check_tensor(model, tensor)
    written = set(items(graph.inputs))
    for operator in graph.operators:
        node = _Node(model, operator)
        for index in items(operator.outputs):
            fixed = constant_bytes(model, graph.tensors[index]) is not None
            node.need(index not in written and not fixed, "writes a tensor that is constant or written before")
            written.add(index)
        node.need(node.op in _RULES, "is an operator that keras_esq can't verify")
        _RULES[node.op](node)


def _check_tensor(model: Any, tensor: Any) -> None:
    name, shape, kind = repr(text(tensor.name)), items(tensor.shape), type_name(tensor)
    good = (
        kind in _TYPES and not tensor.isVariable and tensor.sparsity is None and not model.buffers[tensor.buffer].offset
    )
    if not good:
        raise FlatbufferError(
            f"tensor {name} is of type {kind}, variable, sparse or stored outside, which can't be verified"
        )
    if len(shape) > _MOST_AXES or not all(shape) or math.prod(shape) > _LARGEST_TENSOR:
        raise FlatbufferError(f"tensor {name} has the shape {shape}")
    stored = tensor.quantization
    scales = np.asarray([] if stored is None or stored.scale is None else stored.scale, np.float64)
    if stored is not None and stored.detailsType:
        raise FlatbufferError(f"tensor {name} is quantized in a way that can't be verified")
    if np.any((scales < _SCALES[0]) | (scales > _SCALES[1])):
        raise FlatbufferError(f"tensor {name} has a scale out of range")
    zero_points = np.asarray([] if stored is None else items(stored.zeroPoint), np.float64)
    low, high = (-128, 255) if kind in ("INT8", "UINT8", "INT4") else (-(1 << 15), (1 << 15) - 1)
    if len(zero_points) != len(scales) or np.any((zero_points < low) | (zero_points > high)):
        raise FlatbufferError(f"tensor {name} has {len(zero_points)} zero points, or some out of range")
