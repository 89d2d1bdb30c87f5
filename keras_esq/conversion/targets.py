"""What `convert` can aim at: one row a target."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Rules of one target.

    Attributes:
        storage: how weights and activations are stored: "float"; "int8", both full int8; "packed", int8 with low-bit
            kernels in 2 or 4 bits where that is not slower; "tables", int8 with low-bit kernels in TFLM's look-up
            tables; "decoded", float activations with low-bit kernels in 2 bits and the others in int8.
        io: the input and output types that it can have; the first is the default of a file of float activations.
        runtimes: the runtimes that must agree with Keras on the file, where they are installed and can run it.
    """

    storage: str
    io: tuple[str, ...]
    runtimes: tuple[str, ...]

    @property
    def quantized(self) -> bool:
        """Whether activations are int8."""
        return self.storage in ("int8", "packed", "tables")


_PHONE_RUNTIMES = ("litert", "tflite-runtime", "tf")
_INT8_IO = ("int8", "uint8", "float32")
# A microcontroller runs the plain kernels, so TF's plain kernels, which are always installed, stand beside TFLM.
_MICRO_RUNTIMES = ("tflm", "tf-builtin")

# A row is all that a further target of plain files needs; `convert` reads nothing but this table.
TARGETS: dict[str, Target] = {
    "float": Target("float", ("float32",), _PHONE_RUNTIMES),
    "phone": Target("packed", _INT8_IO, _PHONE_RUNTIMES),
    "phone-small": Target("decoded", ("float32",), _PHONE_RUNTIMES),
    "mcu": Target("tables", _INT8_IO, _MICRO_RUNTIMES),
    # The compilers of NPUs take plain int8 only, and store low-bit weights in few bits themselves. Their host runs
    # what they leave over: a Coral board by TFLite, a Cortex-M by TFLM.
    "edgetpu": Target("int8", ("int8", "uint8"), _PHONE_RUNTIMES),
    "ethos-u": Target("int8", ("int8", "uint8"), _MICRO_RUNTIMES),
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
    """The input and output type of a file for `target`. Float activations come with float32, whatever int8 default.

    Raises:
        ValueError: if the target can't have that type.
    """
    allowed = TARGETS[target].io
    if io in allowed:
        return io
    if not TARGETS[target].quantized and io == "int8":
        return "float32"
    raise ValueError(f"Expected io to be one of {list(allowed)} for target {target!r}. Received: {io!r}.")
