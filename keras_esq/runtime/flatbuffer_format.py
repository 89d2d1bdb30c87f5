"""Reading a .tflite file: structural verification first, then the schema's object tree.

Interpreters are native code that trusts what it reads, so bytes from a file are followed here once, in Python, before
any of them sees them: every offset inside the file, every index inside its list, every constant as long as its shape.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

IDENTIFIER = b"TFL3"

# Bits of one element by the schema's TensorType; absent types have no fixed size (strings, resources, variants).
TYPE_BITS = {
    "FLOAT32": 32, "FLOAT16": 16, "INT32": 32, "UINT8": 8, "INT64": 64, "BOOL": 8, "INT16": 16, "COMPLEX64": 64,
    "INT8": 8, "FLOAT64": 64, "COMPLEX128": 128, "UINT64": 64, "UINT32": 32, "UINT16": 16, "INT4": 4, "BFLOAT16": 16,
    "INT2": 2, "UINT4": 4,
}  # fmt: skip

# The part of the TFLite schema through which a reader follows offsets: {table: {field id: kind}}. Kinds: an int is a
# vector of elements of that many bytes, "str" a string, "table" a table whose own fields are scalars or are checked by
# its kernel, a name is that table, "[name]" a vector of tables. Fields that are absent here are scalars.
_SCHEMA: dict[str, dict[int, int | str]] = {
    "Model": {1: "[OperatorCode]", 2: "[SubGraph]", 3: "str", 4: "[Buffer]", 5: 4, 6: "[Metadata]",
              7: "[SignatureDef]"},
    "OperatorCode": {1: "str"},
    "SubGraph": {0: "[Tensor]", 1: 4, 2: 4, 3: "[Operator]", 4: "str"},
    "Tensor": {0: 4, 3: "str", 4: "Quantization", 6: "table", 7: 4, 9: "[table]"},
    "Quantization": {0: 4, 1: 4, 2: 4, 3: 8, 5: "table"},
    "Operator": {1: 4, 2: 4, 4: "table", 5: 1, 7: 1, 8: 4, 12: "table"},
    "Buffer": {0: 1},
    "Metadata": {0: "str"},
    "SignatureDef": {0: "[TensorMap]", 1: "[TensorMap]", 2: "str"},
    "TensorMap": {0: "str"},
    "table": {},
}  # fmt: skip

# What Arm's compiler makes of a graph reads scratch memory, for the NPU to write to. Only the device has the operator.
_WITH_SCRATCH = ("ethos-u",)

# More tables than any real file has; a bound keeps a file of overlapping tables from costing hours.
_MAX_TABLES = 2_000_000


class FlatbufferError(ValueError):
    """The bytes are not a whole TFLite flatbuffer."""


def _schema() -> ModuleType:
    """The generated TFLite schema classes.

    Not a documented module, but the only copy of the schema that comes with TensorFlow; a test fails when it moves.
    """
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


class _Verifier:
    """Follows every offset of a flatbuffer and refuses the ones that leave the file."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.tables = 0

    def _read(self, layout: str, position: int) -> int:
        size = struct.calcsize(layout)
        if position < 0 or position + size > len(self.content):
            raise FlatbufferError(f"an offset points to byte {position} of a file of {len(self.content)} bytes")
        return int(struct.unpack_from(layout, self.content, position)[0])

    def _follow(self, position: int) -> int:
        return position + self._read("<I", position)

    def _vector(self, position: int, element_bytes: int) -> tuple[int, int]:
        """(number of elements, position of the first) of the vector that starts at `position`."""
        length = self._read("<I", position)
        if position + 4 + length * element_bytes > len(self.content):
            raise FlatbufferError(f"a list of {length} elements at byte {position} is longer than the file")
        return length, position + 4

    def table(self, kind: str, position: int) -> None:
        self.tables += 1
        if self.tables > _MAX_TABLES:
            raise FlatbufferError(f"it holds more than {_MAX_TABLES} tables")
        vtable = position - self._read("<i", position)
        vtable_bytes, table_bytes = self._read("<H", vtable), self._read("<H", vtable + 2)
        if vtable_bytes < 4 or vtable_bytes % 2 or vtable + vtable_bytes > len(self.content):
            raise FlatbufferError(f"the table at byte {position} has a broken field list")
        if table_bytes < 4 or position + table_bytes > len(self.content):
            raise FlatbufferError(f"the table at byte {position} is longer than the file")
        fields = _SCHEMA[kind]
        for field in range((vtable_bytes - 4) // 2):
            offset = self._read("<H", vtable + 4 + 2 * field)
            if offset >= table_bytes:
                raise FlatbufferError(f"a field of the table at byte {position} lies outside of it")
            if offset and field in fields:
                self._field(fields[field], self._follow(position + offset))

    def _field(self, kind: int | str, position: int) -> None:
        if isinstance(kind, int):
            self._vector(position, kind)
        elif kind == "str":
            length, start = self._vector(position, 1)
            self._read("<B", start + length)  # C++ readers rely on the terminating zero.
        elif kind.startswith("["):
            length, start = self._vector(position, 4)
            for index in range(length):
                self.table(kind[1:-1], self._follow(start + 4 * index))
        else:
            self.table(kind, position)


def parse(content: bytes, name: str = "the file") -> Any:
    """Verify the bytes of a .tflite file and return the schema's `ModelT` object tree.

    Args:
        content: the whole file.
        name: what errors call it, usually its path.

    Raises:
        FlatbufferError: (a ValueError) if the bytes are empty, of another format, truncated or inconsistent.
    """
    hint = f"Expected the bytes of a whole .tflite file. Received {name}"
    if not content:
        raise FlatbufferError(f"{hint}, which is empty. Convert the model again.")
    if len(content) < 8 or content[4:8] != IDENTIFIER:
        raise FlatbufferError(
            f"{hint}, which lacks the identifier {IDENTIFIER.decode()!r} at byte 4 (it starts with {content[:8]!r}). "
            "Pass a file written by keras_esq.convert or another TFLite converter."
        )
    try:
        verifier = _Verifier(content)
        verifier.table("Model", verifier._follow(0))
        schema = _schema()
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(content), 0))
        _check_model(model, len(content))
    except FlatbufferError as error:
        raise FlatbufferError(f"{hint}, which is truncated or damaged: {error}. Copy or convert it again.") from error
    except (struct.error, IndexError, TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        # What the generated reader raises depends on where a damaged byte leads it.
        raise FlatbufferError(f"{hint}, which is truncated or damaged ({error}). Copy or convert it again.") from error
    return model


def read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of the file at `path`.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if it is a folder.
    """
    file = Path(path)
    if file.is_dir():
        raise IsADirectoryError(f"Expected a .tflite file. Received the folder {str(file)!r}. Add the file's name.")
    if not file.exists():
        raise FileNotFoundError(
            f"Expected an existing .tflite file. Received {str(file)!r}, which does not exist. "
            "Check the path, or write the file with keras_esq.convert(model, path, ...)."
        )
    return file.read_bytes()


def _names(enumeration: type) -> dict[int, str]:
    return {value: key for key, value in vars(enumeration).items() if isinstance(value, int)}


def type_name(tensor: Any) -> str:
    """Name of a tensor's element type in the schema, such as "INT8"."""
    return _names(_schema().TensorType).get(tensor.type, f"type {tensor.type}")


def op_name(model: Any, operator: Any) -> str:
    """Name of an operator in the schema, such as "CONV_2D", or its custom code."""
    code = model.operatorCodes[operator.opcodeIndex]
    # Codes below 127 are stored in the old one-byte field too; writers of either age fill at least one of them.
    builtin = max(code.builtinCode or 0, code.deprecatedBuiltinCode or 0)
    name = _names(_schema().BuiltinOperator).get(builtin, f"op {builtin}")
    return text(code.customCode) if name == "CUSTOM" else name


def text(value: bytes | str | None) -> str:
    """A schema string as str."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def items(values: Any) -> list[int]:
    """A schema vector of numbers (a numpy array, a list or None) as a list of int."""
    return [] if values is None else [int(v) for v in values]


def constant_bytes(model: Any, tensor: Any) -> Any:
    """The stored bytes of a tensor as a uint8 array, or None if the tensor is computed."""
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    return np.asarray(data, np.uint8)


_DTYPES = {
    "FLOAT32": np.float32, "FLOAT16": np.float16, "INT32": np.int32, "UINT8": np.uint8, "INT64": np.int64,
    "BOOL": np.bool_, "INT16": np.int16, "INT8": np.int8, "FLOAT64": np.float64, "UINT64": np.uint64,
    "UINT32": np.uint32, "UINT16": np.uint16,
}  # fmt: skip
_PACKED = {"INT4": (4, True), "INT2": (2, True), "UINT4": (4, False)}


def constant(model: Any, tensor: Any) -> np.ndarray | None:
    """The values of a constant tensor in its shape, or None if it is computed or numpy lacks its type."""
    data, kind = constant_bytes(model, tensor), type_name(tensor)
    if data is None:
        return None
    shape = items(tensor.shape)
    if kind in _PACKED:
        return _unpack(data, *_PACKED[kind])[: int(np.prod(shape, dtype=np.int64))].reshape(shape)
    return data.view(_DTYPES[kind]).reshape(shape) if kind in _DTYPES else None


def _unpack(data: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """Values of `bits` bits packed low bits first, as int8 or uint8."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = ((data[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)
    if not signed:
        return values
    return np.where(values >= 1 << (bits - 1), values.astype(np.int16) - (1 << bits), values).astype(np.int8)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise FlatbufferError(problem)


def _check_model(model: Any, file_bytes: int) -> None:
    """Consistency of the decoded tree: what an interpreter would take on trust."""
    _require(model.version == 3, f"its schema version is {model.version}, not 3")
    _require(bool(model.subgraphs) and bool(model.buffers), "it holds no graph or no buffers")
    _require(bool(model.buffers[0] is not None), "its first buffer is missing")
    for buffer in model.buffers:
        # Files over 2 GB keep their data behind the flatbuffer.
        _require((buffer.offset or 0) + (buffer.size or 0) <= file_bytes, "a buffer lies outside of the file")
    for subgraph in model.subgraphs:
        _check_tensors(model, subgraph)
        _check_operators(model, subgraph)


def _check_tensors(model: Any, subgraph: Any) -> None:
    for index, tensor in enumerate(subgraph.tensors or []):
        name = f"tensor {index} ({text(tensor.name)!r})"
        _require(0 <= tensor.buffer < len(model.buffers), f"{name} uses buffer {tensor.buffer}, which does not exist")
        shape = items(tensor.shape)
        _require(all(0 <= size < 1 << 31 for size in shape), f"{name} has the shape {shape}")
        kind = type_name(tensor)
        _require(not kind.startswith("type "), f"{name} has the unknown {kind}")
        data, size = constant_bytes(model, tensor), int(np.prod([float(s) for s in shape]))
        _require(size < 1 << 40, f"{name} has the shape {shape}")
        if data is not None and kind in TYPE_BITS and tensor.sparsity is None:
            expected = (size * TYPE_BITS[kind] + 7) // 8
            _require(len(data) == expected, f"{name} of {expected} bytes has {len(data)} bytes of data")
        if tensor.quantization is not None:
            _check_quantization(name, shape, tensor.quantization)


def _check_quantization(name: str, shape: list[int], quantization: Any) -> None:
    scales = np.asarray([] if quantization.scale is None else quantization.scale, np.float64)
    zero_points = items(quantization.zeroPoint)
    _require(
        bool(np.all(np.isfinite(scales)) and np.all(scales >= 0)), f"{name} has a scale that is no positive number"
    )
    if len(scales) > 1:
        axis = quantization.quantizedDimension or 0
        _require(0 <= axis < len(shape), f"{name} is quantized along axis {axis} of {len(shape)}")
        _require(len(scales) == shape[axis], f"{name} has {len(scales)} scales for {shape[axis]} channels")
    _require(
        len(zero_points) in (0, 1, len(scales)), f"{name} has {len(zero_points)} zero points, {len(scales)} scales"
    )


def _check_operators(model: Any, subgraph: Any) -> None:
    count = len(subgraph.tensors or [])
    ends = items(subgraph.inputs) + items(subgraph.outputs)
    _require(all(0 <= i < count for i in ends), "a graph input or output names a tensor that does not exist")
    known = set(items(subgraph.inputs))
    known.update(
        i for i, t in enumerate(subgraph.tensors or []) if t.isVariable or constant_bytes(model, t) is not None
        or 0 in items(t.shape)
    )  # fmt: skip
    for index, operator in enumerate(subgraph.operators or []):
        codes = len(model.operatorCodes or [])
        _require(0 <= operator.opcodeIndex < codes, f"operator {index} has no operator code")
        name = f"operator {index} ({op_name(model, operator)})"
        inputs, outputs = items(operator.inputs), items(operator.outputs)
        _require(all(-1 <= i < count for i in inputs), f"{name} reads a tensor that does not exist")
        _require(
            all(0 <= i < count for i in outputs + items(operator.intermediates)), f"{name} writes a missing tensor"
        )
        computed = all(i in known for i in inputs if i >= 0) or op_name(model, operator) in _WITH_SCRATCH
        _require(computed, f"{name} reads a tensor that is not computed before it")
        known.update(outputs)
    _require(all(i in known for i in items(subgraph.outputs)), "a graph output is never computed")
