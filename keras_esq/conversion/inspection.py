"""`inspect`: what a .tflite file stores, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_esq._text import aligned
from keras_esq.conversion.constants import Stored, stored_constants
from keras_esq.conversion.kernels import CHANNEL_AXIS, KERNELS
from keras_esq.runtime import RUNTIMES
from keras_esq.runtime.flatbuffer_format import TYPE_BITS, constant_bytes, items, op_name, parse, read, text, type_name
from keras_esq.runtime.metadata import read_metadata, verify_seal
from keras_esq.runtime.support import DECODE, lack, refusal


@dataclass(frozen=True)
class TensorRow:
    """One stored tensor.

    Attributes:
        op: the operator that reads it, past a DEQUANTIZE or TFLM_DECODE of constants; "-" if none does.
        name: its name in the file.
        type: its type, such as "INT8"; "LOOKUP" for indices into look-up tables.
        shape: its shape, decoded, in the file's order: kernels have the output channels first, depthwise ones last.
        bits: stored bits of an element.
        distinct: distinct values; of a kernel, in the channel that has most. None for types that numpy lacks.
        num_bytes: its stored bytes.
        is_weight: whether it is the kernel of a layer.
        zeros: share of its elements that are exactly 0, 0.0 to 1.0; None where `distinct` is, or it is empty.
    """

    op: str
    name: str
    type: str
    shape: tuple[int, ...]
    bits: float
    distinct: int | None
    num_bytes: int
    is_weight: bool
    zeros: float | None = None

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
        metadata: what `keras_esq.convert` noted in the file; None for other files.
        refusals: {runtime: None if nothing known speaks against it, else why it can't run the file}; for all runtimes,
            installed or not. Nothing is run.
    """

    path: Path
    rows: tuple[TensorRow, ...]
    ops: tuple[str, ...]
    file_bytes: int
    metadata: Mapping[str, Any] | None = None
    refusals: Mapping[str, str | None] = field(default_factory=dict)

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
        header = ("op", "tensor", "type", "shape", "bits", "distinct", "zeros", "bytes")
        cells = [header]
        for row in self.rows:
            shape = "x".join(map(str, row.shape)) or "scalar"
            distinct = "-" if row.distinct is None else str(row.distinct)
            zeros = "-" if row.zeros is None else f"{row.zeros:.1%}"
            numbers = (f"{row.bits:g}", distinct, zeros, f"{row.num_bytes:,}")
            cells.append((row.op, _short(row.name), row.type, shape, *numbers))
        lines = [
            aligned(cells, left=4),
            f"file {self.file_bytes:,} bytes; {self.weights:,} weights in {self.weight_bytes:,} bytes: "
            f"{self.bits_per_weight:.2f} bits a weight, {self.float_ratio:.1f}x smaller than float32; "
            f"everything else {self.overhead_bytes:,} bytes",
        ]
        if npu := (self.metadata or {}).get("ethos_u"):
            lines.append(
                f"on {npu['accelerator']}, as Vela estimates: {npu['cycles']:,} cycles, SRAM {npu['sram_bytes']:,} "
                f"bytes, flash {npu['flash_bytes']:,}, DRAM {npu['dram_bytes']:,}; "
                f"{npu['bits_per_weight']:.2f} bits a weight"
            )
        able = [name for name, why in self.refusals.items() if why is None]
        if able:
            lines.append(f"runs in {', '.join(able)}")
        reasons: dict[str, list[str]] = {}
        for name, why in self.refusals.items():
            if why is not None:
                reasons.setdefault(why, []).append(name)
        lines += [f"not in {', '.join(names)}: {why}" for why, names in reasons.items()]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def inspect(path: str | os.PathLike[str], *, verify: bool = True) -> FlatbufferSummary:
    """Read what a .tflite file stores. No interpreter is involved.

    Args:
        path: the file.
        verify: refuse a file of `keras_esq.convert` that changed since it was written, True by default; False for files
            that another tool edited on purpose.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, truncated, damaged or of another format.
    """
    content, name = read(path), repr(str(path))
    model = parse(content, name)
    if verify:
        verify_seal(content, model, name)
    ops = tuple(op_name(model, operator) for subgraph in model.subgraphs for operator in subgraph.operators or [])
    refusals = {runtime: refusal(model, runtime) or lack(model, runtime) for runtime in RUNTIMES}
    return FlatbufferSummary(Path(path), tuple(_rows(model)), ops, len(content), read_metadata(model, name), refusals)


def _rows(model: Any) -> Iterator[TensorRow]:
    counted: set[int] = set()
    for number, subgraph in enumerate(model.subgraphs):
        tensors = subgraph.tensors or []
        stored = stored_constants(model) if number == 0 else {}
        readers: dict[int, tuple[str, int, int]] = {}
        for operator in subgraph.operators or []:
            op = op_name(model, operator)
            decodes = op == DECODE or any(i in stored for i in items(operator.outputs))
            for position, index in enumerate(items(operator.inputs)):
                if index < 0:
                    continue
                source = stored[index].source if index in stored else index
                if not decodes:
                    readers.setdefault(source, (op, position, index))
                elif op in (DECODE, "MUL") and position % 2:
                    readers.setdefault(index, (op, position, index))
        order = [*readers, *(i for i in range(len(tensors)) if i not in readers)]
        for index in order:
            tensor = tensors[index]
            if constant_bytes(model, tensor) is None:
                continue
            op, position, seen = readers.get(index, ("-", -1, index))
            # Tensors of equal values may share a buffer, which is stored once.
            num_bytes = 0 if tensor.buffer in counted else len(constant_bytes(model, tensor))
            counted.add(tensor.buffer)
            yield _row(tensor, stored.get(seen), items(tensors[seen].shape), op, KERNELS.get(op) == position, num_bytes)


def _row(tensor: Any, stored: Stored | None, shape: list[int], op: str, is_weight: bool, num_bytes: int) -> TensorRow:
    distinct, zeros, kind = None, None, type_name(tensor)
    bits: float = TYPE_BITS.get(kind, 8)
    if stored is not None:
        axis = CHANNEL_AXIS.get(op, 0) if is_weight else None
        distinct, kind, bits = _distinct(stored.values, axis), stored.kind, stored.bits
        # Kernels are symmetric: their zero is 0 before any scale is applied.
        zeros = float(np.mean(stored.values == 0)) if stored.values.size else None
    return TensorRow(op, text(tensor.name), kind, tuple(shape), bits, distinct, num_bytes, is_weight, zeros)


def _distinct(values: np.ndarray, axis: int | None) -> int:
    """Distinct values, or with an axis the most that an index of this axis has."""
    if axis is None or values.ndim <= axis or not values.size:
        return len(np.unique(values))
    # Sorted rows: a value is new where it differs from the one before.
    rows = np.sort(np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1), axis=1)
    return int((1 + np.count_nonzero(np.diff(rows, axis=1), axis=1)).max())


def _short(name: str, width: int = 48) -> str:
    return name if len(name) <= width else name[: width - 3] + "..."
