"""A graph as objects back to the bytes of a .tflite file, with every vector stored once."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from keras_esq.runtime.flatbuffer_format import FlatbufferError, _schema, items
from keras_esq.runtime.flatbuffer_writing import pack_model
from keras_esq.runtime.metadata import add_metadata, seal


def serialize(model: Any, metadata: dict[str, Any] | None = None) -> bytes:
    """The bytes of a file.

    Args:
        model: a `ModelT` of one subgraph; what no operator uses is dropped from it.
        metadata: what the entry "keras_esq" says, plain JSON data, or None for no entry.
    """
    if metadata is not None:
        add_metadata(model, metadata)
    _prune(model)
    content = pack_model(model)
    return seal(content) if metadata is not None else content


def add_constant(model: Any, like: Any, kind: str, data: np.ndarray, **changes: Any) -> int:
    """Add a constant tensor and return its number.

    Args:
        model: the `ModelT`.
        like: a `TensorT` whose other attributes it takes; its quantization is copied, not shared.
        kind: name of its type in the schema.
        data: its bytes, uint8.
        **changes: attributes of the tensor, such as `shape`.
    """
    schema = _schema()
    model.buffers.append(schema.BufferT(data=np.ascontiguousarray(data, np.uint8)))
    tensor = copy.copy(like)
    tensor.quantization = copy.copy(like.quantization)
    tensor.type = getattr(schema.TensorType, kind)
    tensor.buffer = len(model.buffers) - 1
    return add_tensor(model, tensor, **changes)


def add_tensor(model: Any, tensor: Any, **changes: Any) -> int:
    """Add a tensor to the graph, with some attributes changed, and return its number."""
    for name, value in changes.items():
        setattr(tensor, name, value)
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def operator_code(model: Any, name: str, version: int, custom: str | None = None) -> int:
    """The number of an operator's code of that version, which is added if it is missing; "CUSTOM" has a name."""
    schema = _schema()
    builtin = getattr(schema.BuiltinOperator, name)
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin and code.version == version and custom is None:
            return index
    # The old field of one byte holds at most 127.
    model.operatorCodes.append(
        schema.OperatorCodeT(
            deprecatedBuiltinCode=min(builtin, 127), builtinCode=builtin, version=version, customCode=custom
        )
    )
    return len(model.operatorCodes) - 1


def _prune(model: Any) -> None:
    """Drop tensors, buffers and operator codes that nothing uses."""
    if len(model.subgraphs) != 1:
        raise FlatbufferError(f"Expected a file of one graph to rewrite. Received {len(model.subgraphs)}.")
    graph = model.subgraphs[0]
    used = {*items(graph.inputs), *items(graph.outputs)}
    for operator in graph.operators:
        used.update(i for i in [*items(operator.inputs), *items(operator.outputs), *items(operator.intermediates)])
    number = {old: new for new, old in enumerate(sorted(used - {-1}))} | {-1: -1}
    graph.tensors = [graph.tensors[old] for old in sorted(used - {-1})]
    for owner in [graph, *graph.operators]:
        for field in ("inputs", "outputs", "intermediates"):
            if (values := getattr(owner, field, None)) is not None:
                setattr(owner, field, np.array([number[i] for i in items(values)], np.int32))
    for signature in model.signatureDefs or []:
        for entry in [*(signature.inputs or []), *(signature.outputs or [])]:
            entry.tensorIndex = number[entry.tensorIndex]
    _prune_buffers(model)
    codes = sorted({operator.opcodeIndex for operator in graph.operators})
    for operator in graph.operators:
        operator.opcodeIndex = codes.index(operator.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[i] for i in codes]


def _prune_buffers(model: Any) -> None:
    # Buffer 0 is the empty one by convention, which all computed tensors may share.
    buffers, number = [_schema().BufferT()], {0: 0}

    def place(old: int) -> int:
        data = model.buffers[old].data
        if data is None or len(data) == 0:
            return 0
        if old not in number:
            buffers.append(model.buffers[old])
            number[old] = len(buffers) - 1
        return number[old]

    for tensor in model.subgraphs[0].tensors:
        tensor.buffer = place(tensor.buffer)
    model.metadataBuffer = None
    for entry in model.metadata or []:
        entry.buffer = place(entry.buffer)
    model.buffers = buffers
