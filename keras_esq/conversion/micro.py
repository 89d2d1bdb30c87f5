"""What TFLM computes wrong, written so that it computes it right."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from keras_esq.conversion.writing import add_tensor, operator_code
from keras_esq.runtime.flatbuffer_format import _schema, items, op_name, type_name

# Room for float32 rounding of a calibrated range that ends at 6.
_SIX = 6.0 * (1 + 1e-4)


def repair_relu6(model: Any) -> None:
    """Convert the scale of each RELU6 of an int8 graph by a QUANTIZE before it, in place.

    TFLM's RELU6 clips the stored values and forgets to convert them from the input's scale to the output's, so that it
    is right only where both are equal. RELU, and RELU6 fused into another operator, are right. An output that can't
    hold values below 0 (zero point -128) or above 6 needs no RELU6 any more: the conversion saturates at both ends.
    """
    graph, operators = model.subgraphs[0], []
    for operator in graph.operators:
        operators.append(operator)
        if op_name(model, operator) != "RELU6":
            continue
        before, after = (graph.tensors[items(ends)[0]] for ends in (operator.inputs, operator.outputs))
        if type_name(before) != "INT8" or type_name(after) != "INT8":
            continue
        scale, zero_point = float(after.quantization.scale[0]), items(after.quantization.zeroPoint)[0]
        if (float(before.quantization.scale[0]), items(before.quantization.zeroPoint)[0]) == (scale, zero_point):
            continue
        code = operator_code(model, "QUANTIZE", 1)
        if zero_point == -128 and np.float32(255 * scale) <= _SIX:
            operator.opcodeIndex, operator.builtinOptions, operator.builtinOptionsType = code, None, 0
            continue
        converted = np.array([add_tensor(model, copy.copy(after))], np.int32)
        operators.insert(-1, _schema().OperatorT(opcodeIndex=code, inputs=operator.inputs, outputs=converted))
        operator.inputs = converted
    graph.operators = operators
