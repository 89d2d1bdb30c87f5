"""Arm's compiler for Ethos-U NPUs, run in a process of its own: it may crash."""

from __future__ import annotations

import csv
import difflib
import importlib.util
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_esq.conversion.compilers import CompilerError, run_compiler
from keras_esq.runtime.flatbuffer_format import op_name, parse, text, type_name

ACCELERATORS = (
    "ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512",
    "ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048",
)  # fmt: skip
INSTALL = "pip install keras-esq[ethos-u]"

_MODULE = "ethosu.vela"
# The operator into which Vela puts what the NPU runs.
_NPU_OPERATOR = "ethos-u"
# What it maps or leaves to the CPU; INT4 crashes it.
_TYPES = ("INT8", "UINT8", "INT16", "INT32", "INT64", "BOOL", "FLOAT32")


@dataclass(frozen=True)
class VelaReport:
    """What Vela says of a file. Cycles are its estimate, not a measurement, for Vela's default system of the family.

    Attributes:
        accelerator: such as "ethos-u55-128".
        system: Vela's name of the system (clock and memories) that it assumed.
        cycles: estimated cycles of one inference.
        milliseconds: the same in time, at the system's clock.
        sram_bytes: memory for activations and weights on their way.
        flash_bytes: flash for weights and commands; 0 where the system keeps them in DRAM (Ethos-U65 and U85).
        dram_bytes: DRAM, likewise; 0 where the system has none (Ethos-U55).
        bits_per_weight: stored bits of a weight after Vela's compression, of the weights that the NPU reads.
        macs: multiply-accumulates on the NPU.
        cpu_ops: names of the operators that are left to the CPU.
        compiled: the compiled file, which the NPU's driver runs.
    """

    accelerator: str
    system: str
    cycles: int
    milliseconds: float
    sram_bytes: int
    flash_bytes: int
    dram_bytes: int
    bits_per_weight: float
    macs: int
    cpu_ops: tuple[str, ...]
    compiled: Path | None = None

    def table(self) -> str:
        """The figures in two lines."""
        left = f"{len(self.cpu_ops)} operators on the CPU: {', '.join(self.cpu_ops)}"
        where = left if self.cpu_ops else "all on the NPU"
        return (
            f"Vela, {self.accelerator} ({self.system}): {self.cycles:,} cycles, {self.milliseconds:.3f} ms, "
            f"both estimated; {where}\nSRAM {self.sram_bytes:,} bytes, flash {self.flash_bytes:,}, "
            f"DRAM {self.dram_bytes:,}; {self.bits_per_weight:.2f} stored bits a weight"
        )

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data for a file's metadata."""
        values = {**asdict(self), "cpu_ops": list(self.cpu_ops)}
        del values["compiled"]
        return values


def check_accelerator(accelerator: str | None, target: str) -> None:
    """Refuse an accelerator that Vela does not know, that belongs to no "ethos-u" file, or without Vela.

    Raises:
        ValueError: for an unknown name, naming the nearest, or another target.
        ImportError: if Vela is not installed.
    """
    if accelerator is None:
        return
    if target != "ethos-u":
        raise ValueError(f"Expected accelerator with target='ethos-u' only. Received: {accelerator!r}, {target!r}.")
    if accelerator not in ACCELERATORS:
        near = difflib.get_close_matches(str(accelerator).lower().replace("_", "-"), ACCELERATORS, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"Expected accelerator to be one of {list(ACCELERATORS)}. Received: {accelerator!r}.{hint}")
    if importlib.util.find_spec("ethosu") is None:
        raise ImportError(
            f"Expected Arm's compiler Vela for accelerator={accelerator!r}. Received none: the module {_MODULE!r} is "
            f"missing. Run: {INSTALL}. Without accelerator, convert writes the int8 file that Vela takes.",
            name=_MODULE,
        )


def compile_for_ethos_u(content: bytes, accelerator: str) -> tuple[bytes, VelaReport]:
    """Compile a plain int8 file.

    Args:
        content: the file.
        accelerator: one of ACCELERATORS.

    Returns:
        The compiled file and Vela's figures.

    Raises:
        ValueError: if the file holds packed types, such as INT4, which crash Vela.
        CompilerError: if Vela refuses the file, crashes or takes longer than TIMEOUT_SECONDS.
    """
    _check_types(content)
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "model.tflite", Path(folder) / "out"
        path.write_bytes(content)
        options = ["--accelerator-config", accelerator, "--output-dir", str(out)]
        run_compiler("Vela", [sys.executable, "-m", _MODULE, str(path), *options])
        tables, files = list(out.glob("*_summary_*.csv")), list(out.glob("*_vela.tflite"))
        if len(tables) != 1 or len(files) != 1:
            raise CompilerError(
                f"Expected Vela to write a compiled file and a summary. It wrote {len(files)} and {len(tables)}. No "
                f"file was written. Run: {INSTALL}"
            )
        with open(tables[0], newline="") as stream:
            row = list(csv.DictReader(stream))[-1]
        compiled = files[0].read_bytes()
    return compiled, _report(row, compiled, accelerator)


def _check_types(content: bytes) -> None:
    model = parse(content)
    for tensor in model.subgraphs[0].tensors:
        if (kind := type_name(tensor)) not in _TYPES:
            raise ValueError(
                f"Expected a plain int8 file for Vela, which crashes on others. Received {text(tensor.name)!r} of type "
                f"{kind}. Convert with target='ethos-u'."
            )


def _report(row: dict[str, str], compiled: bytes, accelerator: str) -> VelaReport:
    model = parse(compiled, "what Vela wrote")
    ops = [op_name(model, operator) for operator in model.subgraphs[0].operators]
    flash = sum(float(row[f"{where}_chip_flash_memory_used"]) for where in ("on", "off"))
    original = float(row["total_original_weights"])
    return VelaReport(
        accelerator=accelerator,
        system=row["system_config"],
        cycles=round(float(row["cycles_total"])),
        milliseconds=1000 * float(row["inference_time"]),
        sram_bytes=round(1024 * float(row["sram_memory_used"])),
        flash_bytes=round(1024 * flash),
        dram_bytes=round(1024 * float(row["dram_memory_used"])),
        bits_per_weight=round(8 * float(row["total_npu_encoded_weights"]) / original, 4) if original else 0.0,
        macs=round(float(row["nn_macs"])),
        cpu_ops=tuple(op for op in ops if op != _NPU_OPERATOR),
    )
