"""The int8 file beside its float twin, operator by operator, and the Keras layer that each of them came from."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_esq.conversion.constants import stored_constants
from keras_esq.runtime.flatbuffer_format import items, op_name, parse, text

# Only the int8 file has these, at its ends and where ranges meet.
_CASTS = ("QUANTIZE", "DEQUANTIZE")

# Operators with a kernel, as TensorFlow and `slim` name them; a fused name has also those of neighbours: activations,
# BatchNormalization, the bias of the layer before.
_KERNEL_OPERATOR = re.compile("conv|depthwise|matmul|tensordot|einsum|fully_connected", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """One operator in both files.

    Attributes:
        layer: the Keras layer that it belongs to.
        op: its name, such as "CONV_2D".
        tensor: name of its output in the int8 file.
        output: number of its output tensor in (int8 file, float twin).
        constants: (int8 tensor, its values, float values, number of the twin's tensor) of each constant input.
    """

    layer: str
    op: str
    tensor: str
    output: tuple[int, int]
    constants: tuple[tuple[Any, np.ndarray, np.ndarray, int], ...]


def align(content: bytes, twin: bytes, layers: list[str], output_layer: str) -> list[Pair]:
    """The operators of the int8 file that have a counterpart in the float file of the same network.

    Both come out of the same passes of the converter, so that normally all have. Where not (an operator that
    quantization split or fused), the longest common sequence of (operator, shape) is aligned and the rest is left out.

    Args:
        content: the int8 file.
        twin: the float file.
        layers: names of the Keras layers in order of execution.
        output_layer: name of the last of them.
    """
    left, right = parse(content), parse(twin)
    ops, twin_ops = _operators(left), _operators(right)
    stored, twin_stored = stored_constants(left), stored_constants(right)
    matcher = difflib.SequenceMatcher(None, [_key(left, o) for o in ops], [_key(right, o) for o in twin_ops], False)
    pairs = []
    for block in matcher.get_matching_blocks():
        for operator, twin_operator in zip(ops[block.a :][: block.size], twin_ops[block.b :], strict=False):
            constants = []
            for index, twin_index in zip(items(operator.inputs), items(twin_operator.inputs), strict=False):
                if index in stored and twin_index in twin_stored:
                    left_one, right_one = stored[index], twin_stored[twin_index]
                    if left_one.values.size == right_one.values.size:
                        real = right_one.values.reshape(left_one.values.shape)
                        constants.append((left_one.quantized, left_one.values, real, twin_index))
            output, twin_output = items(operator.outputs)[0], items(twin_operator.outputs)[0]
            layer = layer_name(left, operator, layers, output_layer)
            name = text(left.subgraphs[0].tensors[output].name)
            pairs.append(Pair(layer, op_name(left, operator), name, (output, twin_output), tuple(constants)))
    return pairs


def _operators(model: Any) -> list[Any]:
    return [o for o in model.subgraphs[0].operators if op_name(model, o) not in _CASTS]


def _key(model: Any, operator: Any) -> tuple[str, tuple[int, ...]]:
    shape = tuple(items(model.subgraphs[0].tensors[items(operator.outputs)[0]].shape))
    op = op_name(model, operator)
    # A convolution of one pixel may be stored as a dense layer over the last axis, which is the same.
    return "CONV_2D" if op == "FULLY_CONNECTED" and len(shape) == 4 else op, shape


def layer_name(model: Any, operator: Any, layers: Sequence[str], output_layer: str) -> str:
    """The Keras layer that an operator belongs to, or the name of its output tensor if names tell none.

    Args:
        model: the graph's `ModelT`.
        operator: one of its operators.
        layers: names of the Keras layers in order of execution.
        output_layer: name of the last of them.
    """
    graph, output = model.subgraphs[0], items(operator.outputs)[0]
    if output in items(graph.outputs):
        # The converter renames the graph's output.
        return output_layer
    # Where the output's name tells nothing, that of the weights may.
    indices = [output, *(i for i in items(operator.inputs)[1:] if i >= 0)]
    names = [text(graph.tensors[i].name) for i in indices]
    return next((found for name in names if (found := layer_of(name, layers))), names[0])


def kernel_layer(model: Any, operator: Any, kernel: int, layers: Sequence[str], output_layer: str) -> str:
    """The Keras layer that owns the kernel of an operator, whatever else was fused into the operator.

    Args:
        model: the graph's `ModelT`.
        operator: one of its operators.
        kernel: number of its kernel's tensor.
        layers: names of the Keras layers in order of execution.
        output_layer: name of the last of them.
    """
    tensors = model.subgraphs[0].tensors
    # A kernel that was folded or has several readers is named after no operator of its own.
    names = [text(tensors[i].name) for i in (kernel, items(operator.outputs)[0])]
    parts = [part for name in names for part in name.split(";") if _KERNEL_OPERATOR.search(part.split("/")[-1])]
    found = (layer for part in parts if (layer := layer_of(part, layers)))
    return next(found, None) or layer_name(model, operator, layers, output_layer)


def layer_of(tensor_name: str, layers: Sequence[str]) -> str | None:
    """The Keras layer that a tensor's name tells of, the last in order of execution where several were fused.

    Args:
        tensor_name: such as "model/relu/Relu;model/conv/Conv2D".
        layers: names of the Keras layers in order of execution.
    """
    known = set(layers)
    found = {_owner(name.split("/")[:-1], known) for name in tensor_name.split(";")}
    return next((layer for layer in reversed(layers) if layer in found), None)


def _owner(scopes: list[str], layers: Set[str]) -> str | None:
    """The layer that the scopes of one name belong to, the outermost if there are several."""
    # The first scope is the model's, whose name a layer may have too; only the names that `slim` writes have no model.
    for start in (*range(1, len(scopes)), 0):
        # A layer's own name may have slashes.
        for end in range(len(scopes), start, -1):
            if (name := "/".join(scopes[start:end])) in layers:
                return name
            # A shared layer's later calls are numbered by the converter, which another layer's own name may look like.
            if (stem := re.sub(r"_\d+$", "", name)) in layers:
                return stem
    return None


def quantization(tensor: Any) -> Iterator[np.ndarray]:
    """Scale and zero point of a tensor, shaped to broadcast along its quantized axis; nothing for a float tensor."""
    stored = tensor.quantization
    if stored is None or stored.scale is None or len(stored.scale) == 0:
        return
    shape = [1] * len(items(tensor.shape))
    if len(stored.scale) > 1:
        shape[stored.quantizedDimension or 0] = len(stored.scale)
    yield np.asarray(stored.scale, np.float64).reshape(shape)
    zero_points = items(stored.zeroPoint) or [0]
    yield np.asarray(zero_points * (len(stored.scale) // len(zero_points)), np.float64).reshape(shape)
