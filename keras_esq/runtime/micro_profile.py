"""Where TFLM's memory and time go: the parts of its arena, the time of each operator."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_esq._text import aligned
from keras_esq.runtime.arena import recorded_allocations
from keras_esq.runtime.backends import RUNTIMES, _import, resolve_runtime
from keras_esq.runtime.flatbuffer_format import constant_bytes, items, op_name, parse, text, type_name
from keras_esq.runtime.flatbuffer_writing import pack_model
from keras_esq.runtime.micro import generous_arena, smallest_arena
from keras_esq.runtime.support import DECODE

_DTYPES: dict[str, Any] = {
    "INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FLOAT32": np.float32, "BOOL": np.bool_,
}  # fmt: skip


@dataclass(frozen=True)
class ArenaReport:
    """What TFLM puts into its arena, measured on this machine, whose pointers are longer than a microcontroller's.

    Attributes:
        smallest: bytes of the smallest arena that runs the file, to 16 bytes.
        activations: bytes of activations, decoded weights and scratch memory, which share one place over time.
        persistent: bytes that stay: what operators and tensors need.
        parts: {what: bytes} of the persistent ones, as TFLM names them.
    """

    smallest: int
    activations: int
    persistent: int
    parts: Mapping[str, int]

    def table(self) -> str:
        """The figures as aligned text."""
        rows = [("activations", self.activations), ("persistent", self.persistent)]
        rows += [(f"  {name}", size) for name, size in self.parts.items()]
        return aligned([["arena", "bytes"], *([n, f"{b:,}"] for n, b in rows), ["smallest", f"{self.smallest:,}"]])

    def __str__(self) -> str:
        return self.table()


@dataclass(frozen=True)
class OperatorTime:
    """One operator, run alone.

    Attributes:
        op: its name; a reader of look-up tables includes their decoding, and is called such as "TFLM_DECODE+CONV_2D".
        tensor: name of its output.
        microseconds: its best time on this machine.
        share: its part of all operators' time, 0 to 1.
    """

    op: str
    tensor: str
    microseconds: float
    share: float


@dataclass(frozen=True)
class MicroProfile:
    """Times of TFLM's plain loops on this machine. Shares carry over to a microcontroller better than times.

    Attributes:
        operators: in order of execution.
        microseconds: best time of a whole inference.
    """

    operators: tuple[OperatorTime, ...]
    microseconds: float

    def table(self) -> str:
        """The operators as aligned text."""
        rows = [
            [one.op, one.tensor[-48:], f"{one.microseconds:,.1f}", f"{100 * one.share:.1f}"] for one in self.operators
        ]
        total = ["inference", "", f"{self.microseconds:,.1f}", ""]
        return aligned([["op", "tensor", "us", "%"], *rows, total], left=2)

    def __str__(self) -> str:
        return self.table()


def arena_report(content: bytes) -> ArenaReport:
    """The parts of the arena of a verified file.

    Raises:
        ImportError: if tflite-micro is not installed.
        RuntimeError: if TFLM refuses the file, whatever the arena.
    """
    used = recorded_allocations(_open(content))
    return ArenaReport(smallest_arena(content), used.head, used.tail, used.parts)


def profile(content: bytes, repeats: int) -> MicroProfile:
    """The time of each operator of a verified file, each run alone on zeros, and of the whole.

    TFLM's Python package has no profiler, and its plain loops take the same time whatever the numbers.

    Args:
        content: the file.
        repeats: runs of each, of which the best counts.

    Raises:
        ImportError: if tflite-micro is not installed.
        RuntimeError: if TFLM refuses the file, or one of its operators alone.
    """
    resolve_runtime("tflm")
    times = [(name, tensor, _best(part, repeats)) for name, tensor, part in _alone(content)]
    total = sum(seconds for *_, seconds in times) or 1.0
    rows = tuple(OperatorTime(name, tensor, 1e6 * s, s / total) for name, tensor, s in times)
    return MicroProfile(rows, 1e6 * _best(content, repeats))


def _alone(content: bytes) -> Iterator[tuple[str, str, bytes]]:
    """(name, output's name, a file of it alone) of each operator, with the decoding of its look-up tables."""
    decodes: list[Any] = []
    for position, operator in enumerate(parse(content).subgraphs[0].operators):
        model = parse(content)
        graph = model.subgraphs[0]
        if op_name(model, operator) == DECODE:
            decodes.append(position)
            continue
        chosen = [graph.operators[i] for i in (*decodes, position)]
        made = {index for one in chosen for index in items(one.outputs)}
        read = dict.fromkeys(index for one in chosen for index in items(one.inputs) if index >= 0)
        inputs = [i for i in read if i not in made and constant_bytes(model, graph.tensors[i]) is None]
        name = "+".join(dict.fromkeys(op_name(model, one) for one in chosen))
        decodes = []
        if not inputs:
            continue
        graph.operators, graph.inputs = chosen, np.array(inputs, np.int32)
        graph.outputs = copy.copy(chosen[-1].outputs)
        model.signatureDefs, model.metadata = None, None
        yield name, text(graph.tensors[items(graph.outputs)[0]].name), pack_model(model)


def _open(content: bytes) -> Any:
    module = _import(RUNTIMES["tflm"].module)
    return module.runtime.Interpreter.from_bytes(content, arena_size=generous_arena(content))


def _best(content: bytes, repeats: int) -> float:
    """Best seconds of one run."""
    interpreter, model = _open(content), parse(content)
    tensors = model.subgraphs[0].tensors
    for position, index in enumerate(items(model.subgraphs[0].inputs)):
        tensor = tensors[index]
        interpreter.set_input(np.zeros(items(tensor.shape), _DTYPES[type_name(tensor)]), position)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        interpreter.invoke()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
