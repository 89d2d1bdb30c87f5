"""What TFLM says of its arena. It says so on stderr, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_TOTAL = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")
_PART = re.compile(r"'([^']+)' used (\d+) bytes")


@dataclass(frozen=True)
class Allocations:
    """What one interpreter has allocated, in bytes.

    Attributes:
        head: activations, decoded weights and scratch memory, which share one place over time.
        tail: what stays.
        parts: {what: bytes} of the tail, as TFLM names them.
    """

    head: int
    tail: int
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Both together."""
        return self.head + self.tail


def recorded_allocations(interpreter: Any) -> Allocations:
    """What a `tflite_micro` interpreter has allocated.

    Raises:
        RuntimeError: if this version of TFLM prints it in another form.
    """
    with tempfile.TemporaryFile() as sink:
        with redirected_stderr(sink.fileno()):
            interpreter.print_allocations()
        sink.seek(0)
        printed = sink.read().decode(errors="replace")
    totals = {name: int(size) for name, size in _TOTAL.findall(printed)}
    if not {"head", "tail"} <= totals.keys():
        raise RuntimeError(
            f"Expected TFLM to print its allocations as version 0.dev20261023182759 does. Received: {printed[:200]!r}. "
            "Install that version: pip install keras-esq[mcu]."
        )
    return Allocations(totals["head"], totals["tail"], {name: int(size) for name, size in _PART.findall(printed)})


@contextlib.contextmanager
def redirected_stderr(descriptor: int) -> Iterator[None]:
    """Send what native code prints to stderr to a file descriptor."""
    kept = os.dup(2)
    try:
        os.dup2(descriptor, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """What native code has printed to stderr so far, by a call inside the block."""
    with tempfile.TemporaryFile() as sink, redirected_stderr(sink.fileno()):
        yield lambda: os.pread(sink.fileno(), 1 << 20, 0).decode("utf-8", "replace")


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drop what native code prints to stderr: TFLM does so for every arena that is too small."""
    with open(os.devnull, "wb") as sink, redirected_stderr(sink.fileno()):
        yield
