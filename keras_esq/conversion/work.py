"""How much work an inference is, and how many samples a check can afford."""

from __future__ import annotations

import math
from typing import Any

from keras_esq.conversion.kernels import KERNELS
from keras_esq.runtime.flatbuffer_format import items, op_name


def operator_macs(model: Any, operator: Any) -> int:
    """Multiply-accumulates of one operator; 0 for those without kernel.

    Args:
        model: what `parse` returned.
        operator: one of its operators.
    """
    op, tensors = op_name(model, operator), model.subgraphs[0].tensors
    if op not in KERNELS:
        return 0
    inputs = items(operator.inputs)
    kernel = items(tensors[inputs[KERNELS[op]]].shape)
    out = items(tensors[items(operator.outputs)[0]].shape)
    if op == "FULLY_CONNECTED":
        return math.prod(out) * kernel[-1]
    if op == "DEPTHWISE_CONV_2D":
        return math.prod(out) * kernel[1] * kernel[2]
    if op == "TRANSPOSE_CONV":
        return math.prod(items(tensors[inputs[2]].shape)[1:3]) * math.prod(kernel)
    return math.prod(out[1:-1]) * math.prod(kernel)


def affordable(model: Any, macs: float, samples: int) -> int:
    """How many of `samples` a budget of multiply-accumulates covers; 2 at least, so that outputs can be told apart.

    Args:
        model: what `parse` returned.
        macs: the budget of all samples together.
        samples: the most.
    """
    one = sum(operator_macs(model, operator) for operator in model.subgraphs[0].operators)
    return max(min(2, samples), min(samples, int(macs / max(one, 1))))
