"""Google's compiler for the Edge TPU, where the user has installed it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from keras_esq.conversion.compilers import run_compiler

_NAME = "edgetpu_compiler"


def compile_for_edgetpu(content: bytes) -> tuple[bytes | None, str] | None:
    """Compile a full int8 file if `edgetpu_compiler` is on the PATH.

    Args:
        content: the file.

    Returns:
        (the compiled file, or None if the compiler mapped nothing and wrote none; its log), or None without compiler.

    Raises:
        CompilerError: if the compiler refuses the file, crashes or takes too long.
    """
    program = shutil.which(_NAME)
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        printed = run_compiler(_NAME, [program, "--show_operations", "--out_dir", folder, str(path)])
        # The log file has the table of operators, the terminal the rest.
        logs = [log.read_text(errors="replace") for log in sorted(Path(folder).glob("*.log"))]
        compiled = path.with_name("model_edgetpu.tflite")
        result = compiled.read_bytes() if compiled.exists() else None
    text = "\n".join(part.strip() for part in (printed, *logs) if part.strip())
    return result, text.replace(f"{folder}/", "")
