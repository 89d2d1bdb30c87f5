"""What TFLM takes on trust in a file, verified before it sees the bytes: each operator's shapes, types and attributes.

TFLM leaves checks out to stay small. A kernel that is larger than its tensor, a stride of 0 or an index past a look-up
table then reads or writes past the end of memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_esq.runtime.flatbuffer_format import FlatbufferError, constant_bytes, items, text, type_name
from keras_esq.runtime.micro_rules import RULES
from keras_esq.runtime.node import Node

_TYPES = ("INT8", "UINT8", "INT16", "INT32", "INT64", "FLOAT32", "BOOL", "INT4")
_LARGEST_TENSOR, _MOST_AXES = 1 << 28, 5
_SCALES = (1e-20, 1e20)
_PLANS = ("OfflineMemoryAllocation", "COMPRESSION_METADATA")


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
        node = Node(model, operator)
        for index in items(operator.outputs):
            fixed = constant_bytes(model, graph.tensors[index]) is not None
            node.need(index not in written and not fixed, "writes a tensor that is constant or written before")
            written.add(index)
        node.need(node.op in RULES, "is an operator that keras_esq can't verify")
        RULES[node.op](node)


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
