"""`inspect`: what a .tflite file stores, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_esq.runtime.flatbuffer_format import (
    TYPE_BITS,
    constant,
    constant_bytes,
    items,
    op_name,
    parse,
    read,
    text,
    type_name,
)

# Operators with a kernel, and the position of the kernel among their inputs.
_KERNELS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "CONV_3D": 1}
# The axis of the output channels in a kernel; DEPTHWISE_CONV_2D has its channels last, the others first.
_CHANNEL_AXIS = {"DEPTHWISE_CONV_2D": 3, "CONV_3D": 4}


@dataclass(frozen=True)
class TensorRow:
    """One stored tensor.

    Attributes:
        op: the operator that reads it, "-" if none does.
        name: its name in the file.
        type: its type, such as "INT8".
        shape: its shape in the file's order: kernels have the output channels first, depthwise ones last.
        bits: stored bits of an element.
        distinct: distinct values; of a kernel, in the channel that has most. None for types that numpy lacks.
        num_bytes: its stored bytes.
        is_weight: whether it is the kernel of a layer.
    """

    op: str
    name: str
    type: str
    shape: tuple[int, ...]
    bits: float
    distinct: int | None
    num_bytes: int
    is_weight: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class FlatbufferSummary:
    """What a .tflite file stores.

    Attributes:
        path: the file.
        rows: the constant tensors in the order of the operators that read them.
        ops: names of the operators in order of execution.
        file_bytes: size of the file.
    """

    path: Path
    rows: tuple[TensorRow, ...]
    ops: tuple[str, ...]
    file_bytes: int

    @property
    def weights(self) -> int:
        """Number of kernel weights."""
        return sum(row.size for row in self.rows if row.is_weight)

    @property
    def weight_bytes(self) -> int:
        """Stored bytes of the kernels."""
        return sum(row.num_bytes for row in self.rows if row.is_weight)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of a kernel weight on average; 0 if there are none."""
        return 8 * self.weight_bytes / self.weights if self.weights else 0.0

    @property
    def float_ratio(self) -> float:
        """Bytes of the kernels in float32 divided by their stored bytes; 1 if there are none."""
        return 4 * self.weights / self.weight_bytes if self.weight_bytes else 1.0

    @property
    def overhead_bytes(self) -> int:
        """Bytes of the file that are not kernels: biases, scales, the graph."""
        return self.file_bytes - self.weight_bytes

    def table(self) -> str:
        """The rows and totals as aligned text."""
        header = ("op", "tensor", "type", "shape", "bits", "distinct", "bytes")
        cells = [header]
        for row in self.rows:
            shape = "x".join(map(str, row.shape)) or "scalar"
            distinct = "-" if row.distinct is None else str(row.distinct)
            cells.append((row.op, _short(row.name), row.type, shape, f"{row.bits:g}", distinct, f"{row.num_bytes:,}"))
        widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
        lines = [
            "  ".join(_align(c, w, i) for i, (c, w) in enumerate(zip(line, widths, strict=True))) for line in cells
        ]
        lines.insert(1, "-" * len(lines[0]))
        lines.append(
            f"file {self.file_bytes:,} bytes; {self.weights:,} weights in {self.weight_bytes:,} bytes: "
            f"{self.bits_per_weight:.2f} bits a weight, {self.float_ratio:.1f}x smaller than float32; "
            f"everything else {self.overhead_bytes:,} bytes"
        )
        return "\n".join(line.rstrip() for line in lines)

    def __str__(self) -> str:
        return self.table()


def inspect(path: str | os.PathLike[str]) -> FlatbufferSummary:
    """Read what a .tflite file stores. No interpreter is involved.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, truncated, damaged or of another format.
    """
    content = read(path)
    model = parse(content, repr(str(path)))
    ops = tuple(op_name(model, operator) for subgraph in model.subgraphs for operator in subgraph.operators or [])
    return FlatbufferSummary(Path(path), tuple(_rows(model)), ops, len(content))


def _rows(model: Any) -> Iterator[TensorRow]:
    counted: set[int] = set()
    for subgraph in model.subgraphs:
        tensors = subgraph.tensors or []
        readers: dict[int, tuple[str, int]] = {}
        for operator in subgraph.operators or []:
            for position, index in enumerate(items(operator.inputs)):
                if index >= 0:
                    readers.setdefault(index, (op_name(model, operator), position))
        order = [*readers, *(i for i in range(len(tensors)) if i not in readers)]
        for index in order:
            tensor = tensors[index]
            if constant_bytes(model, tensor) is None:
                continue
            op, position = readers.get(index, ("-", -1))
            # Tensors of equal values may share a buffer, which is stored once.
            stored = 0 if tensor.buffer in counted else len(constant_bytes(model, tensor))
            counted.add(tensor.buffer)
            yield _row(model, tensor, op, _KERNELS.get(op) == position, stored)


def _row(model: Any, tensor: Any, op: str, is_weight: bool, stored: int) -> TensorRow:
    values, kind, shape = constant(model, tensor), type_name(tensor), tuple(items(tensor.shape))
    distinct = None
    if values is not None:
        axis = _CHANNEL_AXIS.get(op, 0) if is_weight else None
        distinct = _distinct(values, axis)
    bits = TYPE_BITS.get(kind, 8.0)
    return TensorRow(op, text(tensor.name), kind, shape, bits, distinct, stored, is_weight)


def _distinct(values: np.ndarray, axis: int | None) -> int:
    """Distinct values, or with an axis the most that an index of this axis has."""
    if axis is None or values.ndim <= axis or not values.size:
        return len(np.unique(values))
    # Sorted rows: a value is new where it differs from the one before.
    rows = np.sort(np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1), axis=1)
    return int((1 + np.count_nonzero(np.diff(rows, axis=1), axis=1)).max())


def _short(name: str, width: int = 48) -> str:
    return name if len(name) <= width else name[: width - 3] + "..."


def _align(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column >= 4 else cell.ljust(width)
