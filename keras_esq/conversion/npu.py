"""What the compiler of a target's NPU makes of a file and says of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from keras_esq.conversion.edgetpu import EdgeTpuReport, check_rules
from keras_esq.conversion.edgetpu_compiler import compile_for_edgetpu
from keras_esq.conversion.vela import VelaReport, compile_for_ethos_u


def compile_for_npu(
    content: bytes, path: Path, target: str, accelerator: str | None
) -> tuple[bytes | None, VelaReport | EdgeTpuReport | None]:
    """Compile a file for the NPU of its target, as far as its compiler is asked for or there.

    Args:
        content: the plain int8 file.
        path: where it will be written; the compiled one belongs beside it, see the report's `compiled`.
        target: any target; those without NPU have no compiler.
        accelerator: as of `convert`.

    Returns:
        (the compiled file or None, the report or None).

    Raises:
        CompilerError: if the compiler fails.
    """
    if accelerator is not None:
        compiled, report = compile_for_ethos_u(content, accelerator)
        return compiled, dataclasses.replace(report, compiled=path.with_name(f"{path.stem}_vela{path.suffix}"))
    if target == "edgetpu":
        checked = check_rules(content, path)
        result = compile_for_edgetpu(content)
        if result is None:
            return None, checked
        beside = path.with_name(f"{path.stem}_edgetpu{path.suffix}") if result[0] is not None else None
        return result[0], dataclasses.replace(checked, compiled=beside, log=result[1])
    return None, None
