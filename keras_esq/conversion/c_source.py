"""A .tflite as C++ source for a TFLM program: the bytes, the operators to register, the arena to reserve."""

from __future__ import annotations

import re
from pathlib import Path

from keras_esq._files import write_atomic
from keras_esq.runtime.flatbuffer_format import op_name, parse
from keras_esq.runtime.support import DECODE

# Methods of tflite::MicroMutableOpResolver whose names don't follow from the schema's.
_METHODS = {DECODE: "AddDecode", "PADV2": "AddPadV2", "CUMSUM": "AddCumSum", "ADD_N": "AddAddN"}

_HEADER = """\
// Written by keras_esq. {bytes} bytes; {operators} kinds of operators; arena measured on a 64-bit host.
#ifndef {guard}
#define {guard}

#include <cstddef>
#include <cstdint>

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

alignas(16) extern const unsigned char {name}_data[];
constexpr size_t {name}_size = {bytes};

// The smallest arena that runs the model, {arena_note}.
constexpr size_t {name}_arena_size = {arena};

// Registers what the model needs: tflite::MicroMutableOpResolver<{name}_op_count> resolver.
constexpr unsigned int {name}_op_count = {operators};
inline TfLiteStatus {name}_add_ops(tflite::MicroMutableOpResolver<{name}_op_count>& resolver) {{
{adds}  return kTfLiteOk;
}}

#endif  // {guard}
"""


def resolver_method(op: str) -> str:
    """The method of TFLM's op resolver that registers an operator, such as "AddConv2D" for "CONV_2D"."""
    parts = (part.upper() if part[0].isdigit() else part.capitalize() for part in op.split("_"))
    return _METHODS.get(op, "Add" + "".join(parts))


def write_c_source(path: Path, content: bytes, arena: int) -> tuple[Path, Path]:
    """Write NAME.h and NAME.cc beside NAME.tflite.

    Args:
        path: the .tflite file; its stem, as a C name, is the prefix of all names in the source.
        content: its bytes.
        arena: bytes of the arena.

    Returns:
        The two paths.

    Raises:
        OSError: if they can't be written.
    """
    model = parse(content)
    name = re.sub(r"\W", "_", path.stem, flags=re.ASCII).lstrip("_") or "model"
    name = f"model_{name}" if name[0].isdigit() else name
    ops = list(dict.fromkeys(op_name(model, operator) for operator in model.subgraphs[0].operators))
    header = _HEADER.format(
        bytes=len(content),
        guard=f"KERAS_ESQ_{name.upper()}_H_",
        name=name,
        arena=arena,
        arena_note="which a 32-bit device undercuts, its pointers being shorter",
        operators=len(ops),
        adds="".join(f"  TF_LITE_ENSURE_STATUS(resolver.{resolver_method(op)}());\n" for op in ops),
    )
    rows = [", ".join(f"0x{byte:02x}" for byte in content[i : i + 16]) for i in range(0, len(content), 16)]
    # An aligned array, as TFLM reads the weights in place.
    body = ",\n    ".join(rows)
    source = f'#include "{path.stem}.h"\n\nalignas(16) const unsigned char {name}_data[] = {{\n    {body}}};\n'
    return write_atomic(path.with_suffix(".h"), header), write_atomic(path.with_suffix(".cc"), source)
