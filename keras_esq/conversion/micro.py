"""What TFLM computes wrong, written so that it computes it right."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_esq.conversion.writing import operator_code
from keras_esq.runtime.flatbuffer_format import items, op_name, type_name

# Room for float32 rounding of a calibrated range that ends at 6.
_SIX = 6.0 * (1 + 1e-4)


def replace_relu6(model: Any) -> None:
    """Turn each RELU6 of an int8 graph into the QUANTIZE that does the same, in place.

    TFLM's RELU6 clips the stored values and forgets to convert them from the input's scale to the output's. An int8
    output of zero point -128 can't hold values below 0, and its range ends at what calibration saw, 6 at most: the
    conversion alone clips at both ends. RELU, and RELU6 fused into another operator, are right.
    """
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if op_name(model, operator) != "RELU6":
            continue
        before, after = (graph.tensors[items(ends)[0]] for ends in (operator.inputs, operator.outputs))
        if type_name(before) != "INT8" or type_name(after) != "INT8":
            continue
        scale, zero_point = float(after.quantization.scale[0]), items(after.quantization.zeroPoint)[0]
        if zero_point == -128 and np.float32(255 * scale) <= _SIX:
            operator.opcodeIndex = operator_code(model, "QUANTIZE", 1)
            operator.builtinOptions, operator.builtinOptionsType = None, 0
