"""For each operator that TFLM runs, the shapes, types and attributes that its kernel takes on trust."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_esq.runtime.flatbuffer_format import constant_bytes, items, type_name
from keras_esq.runtime.lookup_format import decode_table
from keras_esq.runtime.node import Node
from keras_esq.runtime.support import DECODE

_LARGEST_STRIDE = 1 << 12
# Type of the bias by that of the input.
_BIAS = {"INT8": ("INT32",), "INT16": ("INT64", "INT32"), "FLOAT32": ("FLOAT32",)}
_PADDING_SAME = 0


def _window(node: Node, size: list[int], options: Any, dilation: tuple[int, int] = (1, 1)) -> list[int]:
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


def _bias(node: Node, position: int, channels: int) -> None:
    if position < len(node.inputs) and node.inputs[position] is not None:
        kinds = _BIAS.get(node.kind(0), ())
        node.need(node.kind(position) in kinds, f"has a bias of type {node.kind(position)}")
        node.need(math.prod(node.shape(position)) == channels, f"has a bias of {node.shape(position)}, not {channels}")


def _kernel(node: Node, channels: int, axis: int) -> None:
    node.same_types((0,))
    allowed = {"INT8": ("INT8", "INT4"), "INT16": ("INT8",), "FLOAT32": ("FLOAT32",)}.get(node.kind(0), ())
    node.need(node.kind(1) in allowed, f"has a kernel of type {node.kind(1)} for inputs of type {node.kind(0)}")
    if node.kind(0) != "FLOAT32":
        stored = node.inputs[1].quantization
        count = 0 if stored is None or stored.scale is None else len(stored.scale)
        node.need(count in (1, channels), f"has a kernel of {count} scales for {channels} channels")
        node.need(count == 1 or (stored.quantizedDimension or 0) == axis, "has scales along the wrong axis")


def _rank(node: Node, positions: tuple[int, ...], rank: int) -> None:
    for position in positions:
        node.need(len(node.shape(position)) == rank, f"has an input {position} of shape {node.shape(position)}")


def _convolved(node: Node, options: Any, filters: int, axis: int) -> None:
    """Window, output, kernel and bias of a convolution whose filters are along that axis of its kernel."""
    dilation = (options.dilationHFactor, options.dilationWFactor)
    node.gives([node.shape(0)[0], *_window(node, node.shape(1)[1:3], options, dilation), filters])
    _kernel(node, filters, axis)
    _bias(node, 2, filters)


def _convolution(node: Node) -> None:
    node.counts((2, 3))
    options = node.attributes("Conv2DOptions")
    _rank(node, (0, 1), 4)
    channels = node.shape(0)[3]
    filters, _, _, depth = node.shape(1)
    node.need(channels % depth == 0 and filters % (channels // depth) == 0, "has a kernel of other channels")
    _convolved(node, options, filters, 0)


def _depthwise(node: Node) -> None:
    node.counts((2, 3))
    options = node.attributes("DepthwiseConv2DOptions")
    _rank(node, (0, 1), 4)
    one, _, _, filters = node.shape(1)
    node.need(one == 1 and filters == node.shape(0)[3] * options.depthMultiplier, "has a kernel of other channels")
    _convolved(node, options, filters, 3)


def _transposed(node: Node) -> None:
    node.counts((3, 4))
    options = node.attributes("TransposeConvOptions")
    _rank(node, (1, 2), 4)
    shape = node.constant(0).reshape(-1).tolist()
    node.gives(shape)
    filters, height, width, depth = node.shape(1)
    batch, *size, channels = node.shape(2)
    node.need(depth == channels and [shape[0], shape[3]] == [batch, filters], "has a kernel of other channels")
    # Its input is what a convolution makes of its output.
    inverse = Node.__new__(Node)
    inverse.__dict__.update(node.__dict__, inputs=node.outputs)
    node.need(_window(inverse, [height, width], options) == size, f"has an output of shape {shape} for {size}")
    inverse.inputs, inverse.outputs = [node.inputs[2], node.inputs[1], *node.inputs[3:]], node.outputs
    _kernel(inverse, filters, 0)
    _bias(inverse, 2, filters)


def _dense(node: Node) -> None:
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


def _pool(node: Node) -> None:
    node.counts((1,))
    options = node.attributes("Pool2DOptions")
    node.same_types((0,))
    _rank(node, (0,), 4)
    node.need(max(options.filterHeight, options.filterWidth) <= _LARGEST_STRIDE, "has a window out of range")
    size = _window(node, [options.filterHeight, options.filterWidth], options)
    node.gives([node.shape(0)[0], *size, node.shape(0)[3]])


def _binary(options: str) -> Callable[[Node], None]:
    def check(node: Node) -> None:
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


def _same_shape(node: Node) -> None:
    node.counts((1,))
    node.gives(node.shape(0))
    if node.op not in ("QUANTIZE", "DEQUANTIZE"):
        node.same_types((0,))


def _same_size(node: Node) -> None:
    node.counts((1, 2))
    node.same_types((0,))
    node.need(math.prod(node.out) == math.prod(node.shape(0)), f"turns {node.shape(0)} into {node.out}")


def _reduce(node: Node) -> None:
    node.counts((2,))
    keep = node.attributes("ReducerOptions").keepDims
    node.same_types((0,))
    shape, axes = node.shape(0), node.constant(1).reshape(-1).tolist()
    node.need(all(-len(shape) <= axis < len(shape) for axis in axes), f"reduces the axes {axes} of {shape}")
    reduced = {axis % len(shape) for axis in axes}
    left = [1 if axis in reduced else size for axis, size in enumerate(shape) if keep or axis not in reduced]
    node.gives(left)


def _pad(node: Node) -> None:
    node.counts((2, 3))
    node.same_types((0,))
    shape, padding = node.shape(0), node.constant(1)
    good = list(padding.shape) == [len(shape), 2] and padding.min() >= 0 and len(shape) <= 4
    node.need(good, f"has the padding {padding.tolist()} for {shape}")
    node.gives([size + int(sum(pair)) for size, pair in zip(shape, padding.tolist(), strict=True)])
    if len(node.inputs) == 3:
        node.same_types((2,))
        node.need(math.prod(node.shape(2)) == 1, "pads with more than one value")


def _concatenation(node: Node) -> None:
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


def _transpose(node: Node) -> None:
    node.counts((2,))
    node.same_types((0,))
    shape, order = node.shape(0), node.constant(1).reshape(-1).tolist()
    node.need(sorted(order) == list(range(len(shape))), f"has the order {order} for {shape}")
    node.gives([shape[axis] for axis in order])


def _resize(node: Node) -> None:
    node.counts((2,))
    node.same_types((0,))
    _rank(node, (0,), 4)
    node.gives([node.shape(0)[0], *node.constant(1).reshape(-1).tolist(), node.shape(0)[3]])


def _decode(node: Node) -> None:
    node.need(len(node.inputs) == 2 * len(node.outputs) > 0, f"has {len(node.inputs)} inputs")
    for number, output in enumerate(node.outputs):
        parts = [node.inputs[2 * number + i] for i in range(2)]
        node.need(all(part is not None for part in parts), "lacks an input")
        data = [constant_bytes(node.model, part) for part in parts]
        node.need(all(one is not None for one in data), "has an input that is not constant")
        node.need(type_name(output) == "INT8", f"writes {type_name(output)}")
        decode_table(data[0], data[1], items(output.shape))


RULES: dict[str, Callable[[Node], None]] = {
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
