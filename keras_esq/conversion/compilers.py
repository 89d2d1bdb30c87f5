"""Compilers of NPUs, which belong to others: run in a process of their own, with a limit of time."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

# A network of 36 million weights takes half a minute.
TIMEOUT_SECONDS = 900.0

_ADVICE = {
    "Vela": "Without accelerator, convert writes the plain int8 file, which the command `vela` compiles.",
    "edgetpu_compiler": "Take it off the PATH to get the plain int8 file, or see esq.check_edgetpu for its rules.",
}


class CompilerError(RuntimeError):
    """An NPU's compiler refused a file, crashed or took too long. No file was written."""


def run_compiler(name: str, command: Sequence[str]) -> str:
    """Run a compiler and return what it printed.

    Args:
        name: what errors call it: "Vela" or "edgetpu_compiler".
        command: program and arguments.

    Raises:
        CompilerError: if it can't be started, fails, crashes or takes longer than TIMEOUT_SECONDS; with its last words.
    """
    failed = f"Expected {name} to compile the file."
    ending = f"No file was written. {_ADVICE[name]}"
    try:
        # A session of its own, so that what it started ends with it.
        child = subprocess.Popen(
            list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise CompilerError(f"{failed} It could not be started: {error}. {ending}") from error
    try:
        printed, _ = child.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CompilerError(
            f"{failed} It did not finish within {TIMEOUT_SECONDS:g} s and was stopped. {ending}"
        ) from error
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if child.returncode:
        crashed = child.returncode < 0
        how = f"was ended by signal {-child.returncode}" if crashed else f"ended with code {child.returncode}"
        last = " ".join(printed.strip().splitlines()[-3:]) or "It printed nothing."
        raise CompilerError(f"{failed} It {how}: {last} {ending}")
    return printed
