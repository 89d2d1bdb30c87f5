"""The float network with each activation rounded as the int8 file rounds it: how much of a difference is rounding."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from keras_esq.conversion.alignment import Pair, quantization
from keras_esq.conversion.writing import add_tensor, operator_code
from keras_esq.runtime.flatbuffer_format import _schema, items, parse
from keras_esq.runtime.flatbuffer_writing import pack_model

# A bound may be stored saturated where no value reaches it: see `check_constants`.
_BOUNDS = ("MINIMUM", "MAXIMUM")


def with_rounding(content: bytes, twin: bytes, pairs: list[Pair]) -> tuple[bytes, dict[int, int]]:
    """The float twin with the int8 file's constants and, after each operator, its output rounded to the int8 step.

    Operators and their attributes are the twin's own, so that a wrong one in the int8 file does not count as rounding.
    Nothing saturates (rounded values are int16 in the same steps), so that a range that is too narrow does not either.

    Args:
        content: the int8 file.
        twin: the float file of the same network, whose tensor numbers the result keeps.
        pairs: the aligned operators of both.

    Returns:
        The file, and {number of a tensor of the twin: number of the same one, rounded}.
    """
    model, stored = parse(twin), parse(content)
    graph, tensors = model.subgraphs[0], stored.subgraphs[0].tensors
    steps = {pair.output[1]: _step(tensors[pair.output[0]]) for pair in pairs}
    steps[items(graph.inputs)[0]] = _step(tensors[items(stored.subgraphs[0].inputs)[0]])
    _exchange_constants(model, pairs)
    rounded: dict[int, int] = {}
    operators: list[Any] = []

    def round_tensor(index: int) -> None:
        if (step := steps.get(index)) is not None:
            rounded[index] = _round(model, operators, index, step)

    round_tensor(items(graph.inputs)[0])
    for operator in graph.operators:
        operator.inputs = np.array([rounded.get(i, i) for i in items(operator.inputs)], np.int32)
        operators.append(operator)
        for index in items(operator.outputs):
            round_tensor(index)
    graph.operators = operators
    graph.outputs = np.array([rounded.get(i, i) for i in items(graph.outputs)], np.int32)
    model.signatureDefs, model.metadata = None, None
    return pack_model(model), rounded


def _step(tensor: Any) -> float | None:
    scales = list(quantization(tensor))
    return float(scales[0].reshape(-1)[0]) if scales else None


def _round(model: Any, operators: list[Any], index: int, step: float) -> int:
    """Add operators that round a tensor, and return the number of the rounded one."""
    schema, graph = _schema(), model.subgraphs[0]
    whole = copy.copy(graph.tensors[index])
    whole.type, whole.buffer = schema.TensorType.INT16, 0
    whole.quantization = schema.QuantizationParametersT(
        scale=np.array([step], np.float32), zeroPoint=np.zeros(1, np.int64)
    )
    between = add_tensor(model, whole)
    after = add_tensor(model, copy.copy(graph.tensors[index]), buffer=0)
    for name, source, result in (("QUANTIZE", index, between), ("DEQUANTIZE", between, after)):
        operators.append(
            schema.OperatorT(
                opcodeIndex=operator_code(model, name, 1),
                inputs=np.array([source], np.int32),
                outputs=np.array([result], np.int32),
            )
        )
    return after


def _exchange_constants(model: Any, pairs: list[Pair]) -> None:
    """Put the stored constants of an int8 file, in real numbers, into its twin."""
    for pair in pairs:
        for tensor, values, _, index in () if pair.op in _BOUNDS else pair.constants:
            if scales := list(quantization(tensor)):
                scale, zero_point = scales
                real = ((values.astype(np.float64) - zero_point) * scale).astype(np.float32)
                model.buffers.append(_schema().BufferT(data=real.reshape(-1).view(np.uint8)))
                model.subgraphs[0].tensors[index].buffer = len(model.buffers) - 1
