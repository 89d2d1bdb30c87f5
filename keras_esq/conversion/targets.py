"""What `convert` can aim at: one row a target."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Rules of one target.

    Attributes:
        quantized: full int8 with per-channel weights; False for a float file.
        io: the input and output types that it can have; the first is the default of a float file.
        runtimes: the runtimes that must agree with Keras on the file, where they are installed.
    """

    quantized: bool
    io: tuple[str, ...]
    runtimes: tuple[str, ...]


_PHONE_RUNTIMES = ("litert", "tflite-runtime", "tf")
_INT8_IO = ("int8", "uint8", "float32")

# A row is all that a further target of plain files needs; `convert` reads nothing but this table.
TARGETS: dict[str, Target] = {
    "float": Target(quantized=False, io=("float32",), runtimes=_PHONE_RUNTIMES),
    "phone": Target(quantized=True, io=_INT8_IO, runtimes=_PHONE_RUNTIMES),
    # A microcontroller runs the plain kernels, so TF's plain kernels, which are always installed, stand beside TFLM.
    "mcu": Target(quantized=True, io=_INT8_IO, runtimes=("tflm", "tf-builtin")),
}


def get_target(name: str) -> Target:
    """The row of a target.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in TARGETS:
        near = difflib.get_close_matches(str(name), TARGETS, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Expected target to be one of {list(TARGETS)}. Received: {name!r}.{hint}")
    return TARGETS[name]


def get_io(io: str, target: str) -> str:
    """The input and output type of a file for `target`. A float file is float32, whatever int8 default is asked for.

    Raises:
        ValueError: if the target can't have that type.
    """
    allowed = TARGETS[target].io
    if io in allowed:
        return io
    if not TARGETS[target].quantized and io == "int8":
        return "float32"
    raise ValueError(f"Expected io to be one of {list(allowed)} for target {target!r}. Received: {io!r}.")
