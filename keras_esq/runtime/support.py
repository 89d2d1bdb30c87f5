"""Which runtime can run which file, known before it is tried: refusals are cryptic, some results silently wrong."""

from __future__ import annotations

from typing import Any

from keras_esq.runtime.flatbuffer_format import constant_bytes, items, op_name, text, type_name

# TFLM's custom operator that expands look-up tables.
DECODE = "TFLM_DECODE"

_OLD = ("tflite-runtime", "tflite-runtime-ref")
# TFLM's int8 softmax ends the process where exp(x - max) adds up to 512, which fewer classes can't.
_SOFTMAX_CLASSES = 511
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D")


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
            if op_name(model, operator) == DECODE and runtime != "tflm":
                return (
                    "its weights are look-up tables, which only TFLM decodes: use runtime='tflm', or convert with "
                    "target='phone' for phones"
                )
    return None


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
