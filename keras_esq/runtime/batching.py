"""Whether the samples of a batch stay apart in a graph, so that it may be run with another batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_esq.runtime.flatbuffer_format import constant, constant_bytes, items, op_name

# Operators that treat every sample alike, whatever their attributes.
_ALWAYS = {
    "ABS", "ADD", "AVERAGE_POOL_2D", "CAST", "CONV_2D", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE", "DIV",
    "ELU", "EXP", "FULLY_CONNECTED", "GELU", "HARD_SWISH", "L2_NORMALIZATION", "L2_POOL_2D", "LEAKY_RELU", "LOG",
    "LOGISTIC", "LOG_SOFTMAX", "MAXIMUM", "MAX_POOL_2D", "MINIMUM", "MUL", "NEG", "PRELU", "QUANTIZE", "RELU",
    "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SOFTMAX",
    "SPACE_TO_DEPTH", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB", "TANH",
}  # fmt: skip


def _second_input(model: Any, subgraph: Any, operator: Any) -> np.ndarray | None:
    inputs = items(operator.inputs)
    return constant(model, subgraph.tensors[inputs[1]]) if len(inputs) > 1 and inputs[1] >= 0 else None


def _keeps_first_axis(values: np.ndarray | None, rank: int) -> bool:
    """Whether reduction or squeeze axes are known and leave the batch alone."""
    return values is not None and all(int(v) % rank != 0 for v in values.reshape(-1))


def _reshape(model: Any, subgraph: Any, operator: Any, rank: int) -> bool:
    # A shape that names the batch would be wrong for any other one; -1 follows it.
    shape = _second_input(model, subgraph, operator)
    return shape is not None and shape.size > 0 and int(shape.reshape(-1)[0]) == -1


def _reduce(model: Any, subgraph: Any, operator: Any, rank: int) -> bool:
    return _keeps_first_axis(_second_input(model, subgraph, operator), rank)


def _pad(model: Any, subgraph: Any, operator: Any, rank: int) -> bool:
    padding = _second_input(model, subgraph, operator)
    return padding is not None and not padding[0].any()


def _transpose(model: Any, subgraph: Any, operator: Any, rank: int) -> bool:
    permutation = _second_input(model, subgraph, operator)
    return permutation is not None and int(permutation.reshape(-1)[0]) == 0


def _concatenation(model: Any, subgraph: Any, operator: Any, rank: int) -> bool:
    # A constant part would keep its batch of 1.
    computed = all(constant_bytes(model, subgraph.tensors[i]) is None for i in items(operator.inputs))
    return computed and operator.builtinOptions.axis % rank != 0


def _squeeze(model: Any, subgraph: Any, operator: Any, rank: int) -> bool:
    axes = items(operator.builtinOptions.squeezeDims)
    return bool(axes) and _keeps_first_axis(np.asarray(axes), rank)


_CONDITIONAL: dict[str, Callable[[Any, Any, Any, int], bool]] = {
    "RESHAPE": _reshape, "MEAN": _reduce, "SUM": _reduce, "REDUCE_MAX": _reduce, "REDUCE_MIN": _reduce, "PAD": _pad,
    "PADV2": _pad, "MIRROR_PAD": _pad, "TRANSPOSE": _transpose, "CONCATENATION": _concatenation, "SQUEEZE": _squeeze,
}  # fmt: skip


def is_batchable(model: Any) -> bool:
    """Whether a graph of batch 1 computes each sample alone when its input is resized to a larger batch.

    Static, and cautious: some kernels read or write past their tensors when a constant disagrees with the batch
    (TRANSPOSE_CONV stores its whole output shape), so what is not known to be safe runs sample by sample.

    Args:
        model: what `parse` returned.
    """
    if len(model.subgraphs) != 1:
        return False
    subgraph = model.subgraphs[0]
    # What is computed from constants alone, such as decoded weights, does not depend on the batch.
    fixed = {i for i, tensor in enumerate(subgraph.tensors) if constant_bytes(model, tensor) is not None}
    for index in items(subgraph.inputs):
        if items(subgraph.tensors[index].shape)[:1] != [1]:
            return False
    for operator in subgraph.operators or []:
        name = op_name(model, operator)
        if items(operator.inputs) and all(i in fixed for i in items(operator.inputs)):
            fixed.update(items(operator.outputs))
            continue
        if any(items(subgraph.tensors[i].shape)[:1] != [1] for i in items(operator.outputs)):
            return False
        first = items(subgraph.tensors[items(operator.inputs)[0]].shape) if items(operator.inputs) else []
        known = name in _ALWAYS or (
            bool(first) and name in _CONDITIONAL and _CONDITIONAL[name](model, subgraph, operator, len(first))
        )
        if not known:
            return False
    return True
