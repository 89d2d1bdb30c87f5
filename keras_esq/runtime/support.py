"""Which runtime can run which file, known before it is tried: refusals are cryptic, some results silently wrong."""

from __future__ import annotations

import re
from typing import Any

from keras_esq.runtime.flatbuffer_format import constant_bytes, items, op_name, text, type_name

# TFLM's custom operator that expands look-up tables.
DECODE = "TFLM_DECODE"

_OLD = ("tflite-runtime", "tflite-runtime-ref")
# TFLM's int8 softmax ends the process where exp(x - max) adds up to 512, which fewer classes can't.
_SOFTMAX_CLASSES = 511
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D")

# The operators of TFLM, its own aside.
_MICRO = """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS
    BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV
    DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED
    GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG
    LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG
    NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE
    RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND
    SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE
    TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
"""
# The newest version of an operator in tflite-runtime 2.14, where TF 2.21 may write a newer one; 0 if it has none.
_NEWEST = {"LOG": 1, "SQRT": 1, "BROADCAST_TO": 0}
_NEWEST_OF = {
    "tflite-runtime": _NEWEST,
    "tflite-runtime-ref": {
        **_NEWEST,
        **dict.fromkeys(("CEIL", "CUMSUM", "ELU", "RFFT2D", "ROUND", "SEGMENT_SUM"), 0),
        **dict.fromkeys(("DEPTH_TO_SPACE", "RANGE", "SELECT_V2", "SIGN"), 1),
        **dict.fromkeys(("ARG_MAX", "ARG_MIN", "REVERSE_V2", "SELECT", "TILE"), 2),
        "STRIDED_SLICE": 4,
    },
}
# Operators whose kernels take other inputs, but not int8.
_NOT_INT8 = {"tflm": ("EXP", "LOG", "SQRT"), **dict.fromkeys(_OLD, ("DIV",))}


def refusal(model: Any, runtime: str) -> str | None:
    """Why a runtime can't run a graph, in a clause with what to do, or None if nothing known speaks against it.

    Args:
        model: what `parse` returned.
        runtime: a key of RUNTIMES.
    """
    for subgraph in model.subgraphs:
        for operator in subgraph.operators or []:
            constants = [
                (position, subgraph.tensors[index])
                for position, index in enumerate(items(operator.inputs))
                if index >= 0 and constant_bytes(model, subgraph.tensors[index]) is not None
            ]
            for position, tensor in constants:
                if why := _refused(runtime, op_name(model, operator), position, tensor):
                    return why
            if op_name(model, operator) == "SOFTMAX" and runtime == "tflm":
                tensor = subgraph.tensors[items(operator.inputs)[0]]
                if type_name(tensor) == "INT8" and items(tensor.shape)[-1] > _SOFTMAX_CLASSES:
                    return (
                        f"TFLM's int8 softmax of more than {_SOFTMAX_CLASSES} classes ends the process at outputs of "
                        "low confidence: end the network in logits"
                    )
            if runtime in _OLD and (why := _unsafe(model, subgraph, operator, runtime)):
                return why
            if op_name(model, operator) == DECODE and runtime != "tflm":
                return (
                    "its weights are look-up tables, which only TFLM decodes: use runtime='tflm', or convert with "
                    "target='phone' for phones"
                )
    return None


def lack(model: Any, runtime: str) -> str | None:
    """The operator that a runtime has not, or not as a graph needs it, in a clause with what to do; None if it has all.

    Told apart from `refusal`, as each runtime of a target must have the operators of a file, but not read its storage.

    Args:
        model: what `parse` returned.
        runtime: a key of RUNTIMES.
    """
    for subgraph in model.subgraphs:
        for operator in subgraph.operators or []:
            code, op = model.operatorCodes[operator.opcodeIndex], op_name(model, operator)
            if not text(code.customCode) and (why := _lacking(runtime, op, code.version or 1, subgraph, operator)):
                return f"use another runtime, or other layers: {why}"
    return None


def _lacking(runtime: str, op: str, version: int, subgraph: Any, operator: Any) -> str | None:
    if runtime == "tflm" and op not in _MICRO.split():
        return f"TFLM has no operator {op}"
    newest = _NEWEST_OF.get(runtime, {}).get(op, version)
    if version > newest:
        return f"its version 2.14 has no operator {op}" + (f" of version {version}" if newest else "")
    tensors = [subgraph.tensors[i] for i in (*items(operator.inputs)[:1], *items(operator.outputs)) if i >= 0]
    if op in _NOT_INT8.get(runtime, ()) and any(type_name(tensor) == "INT8" for tensor in tensors):
        return f"its operator {op} takes no int8"
    if runtime == "tflm" and op == "STRIDED_SLICE" and any(len(items(tensor.shape)) > 4 for tensor in tensors):
        return f"its operator {op} takes 4 axes at most"
    if runtime == "tflm" and op in ("ARG_MAX", "ARG_MIN") and type_name(tensors[-1]) != "INT32":
        return f"its operator {op} gives INT32 only"
    return None


def _unsafe(model: Any, subgraph: Any, operator: Any, runtime: str) -> str | None:
    """What tflite-runtime 2.14 does not refuse, but computes wrong or ends the process at."""
    op, reference = op_name(model, operator), runtime == "tflite-runtime-ref"
    inputs = [subgraph.tensors[i] for i in items(operator.inputs) if i >= 0]
    int8 = bool(inputs) and type_name(inputs[0]) == "INT8"
    if op in ("MUL", "DIV") and len(inputs) == 2 and (reference or int8):
        # What is computed gets the size of the batch in front, which 2 stands for.
        a, b = (items(t.shape) if constant_bytes(model, t) is not None else [2, *items(t.shape)[1:]] for t in inputs)
        if _stretched(a, b, nested=not reference):
            shapes = " and ".join(str(items(tensor.shape)) for tensor in inputs)
            return f"{op} of shapes {shapes} ends its process: use runtime='litert' or 'tf'"
    if reference and int8 and op == "SUM":
        return "its SUM of int8 is wrong: use runtime='tflite-runtime'"
    outputs = [subgraph.tensors[i] for i in items(operator.outputs)]
    if reference and int8 and op == "FULLY_CONNECTED" and any(len(items(tensor.shape)) > 2 for tensor in outputs):
        stored = inputs[-1 if len(inputs) < 2 else 1].quantization
        if stored is not None and stored.scale is not None and len(stored.scale) > 1:
            return "its FULLY_CONNECTED of int8 is wrong for more than 2 axes: use runtime='tflite-runtime'"
    return None


def _stretched(a: list[int], b: list[int], nested: bool) -> bool:
    """Whether tensors of over 4 axes are stretched to a common shape; `nested`: by more than 5 loops."""
    rank = max(len(a), len(b))
    pairs = zip(*([1] * (rank - len(shape)) + shape for shape in (a, b)), strict=True)
    kinds = "".join("1" if p == q == 1 else "=" if p == q else "a" if p == 1 else "b" for p, q in pairs)
    fast = r"[=1]*[a1]*[=1]*[b1]*[=1]*|[=1]*[b1]*[=1]*[a1]*[=1]*" if nested else r"[=1]*"
    return rank > 4 and not re.fullmatch(fast, kinds)


def _refused(runtime: str, op: str, position: int, tensor: Any) -> str | None:
    kind, name = type_name(tensor), text(tensor.name)
    if kind == "INT2" and op in _CONVOLUTIONS:
        return f"{op} reads weights of 2 bits ({name!r}), which no runtime computes right: convert it again"
    if kind == "INT2" and runtime in _OLD:
        return (
            f"{op} has weights of 2 bits ({name!r}), which tflite-runtime 2.14 does not know: use runtime='litert' "
            "(its successor) or 'tf', or convert with target='phone', weights='int8'"
        )
    if kind == "INT2" and runtime == "tflm":
        return f"{op} has weights of 2 bits ({name!r}), which TFLM does not know: convert with target='mcu'"
    if kind == "INT4" and op == "FULLY_CONNECTED" and runtime in (*_OLD, "tflm"):
        advice = "target='mcu'" if runtime == "tflm" else "target='phone', weights='int8'"
        return (
            f"{op} has weights of 4 bits ({name!r}), which {runtime} takes in convolutions only: convert with {advice}"
        )
    return None
