"""`convert`: a Keras model to a .tflite file that is known to compute the same."""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_esq._files import atomic_path, write_atomic
from keras_esq.conversion.budget import compress_within
from keras_esq.conversion.c_source import write_c_source
from keras_esq.conversion.check import (
    ConversionError,
    check_decoded,
    check_float,
    check_int8,
    check_table_constants,
    check_tables,
    keras_outputs,
)
from keras_esq.conversion.dequantizing import dequantize_kernels
from keras_esq.conversion.input_scale import check_input_scale, keep_input_scale
from keras_esq.conversion.inputs import calibration_data, plain_model, with_bounds
from keras_esq.conversion.kernels import layer_bits
from keras_esq.conversion.lowering import lower
from keras_esq.conversion.micro import repair_relu6
from keras_esq.conversion.npu import compile_for_npu
from keras_esq.conversion.options import check_labels, check_options, describe_report, get_bounds
from keras_esq.conversion.packing import pack_kernels
from keras_esq.conversion.silent import widen_silent
from keras_esq.conversion.slimming import slim
from keras_esq.conversion.targets import get_io, get_target
from keras_esq.conversion.vela import VelaReport, check_accelerator
from keras_esq.conversion.writing import serialize
from keras_esq.runtime import Flatbuffer, available_runtimes
from keras_esq.runtime.backends import resolve_runtime
from keras_esq.runtime.flatbuffer_format import parse
from keras_esq.runtime.support import refusal


def convert(
    model: Any,
    path: str | os.PathLike[str],
    *,
    target: str = "phone",
    calibration: Any = None,
    io: str = "int8",
    bounds: tuple[float, float] | None = None,
    weights: str = "auto",
    c_array: bool = False,
    ram_budget: int | None = None,
    over_budget: str = "int8",
    accelerator: str | None = None,
    labels: Sequence[str] | None = None,
    report: Any = None,
) -> Flatbuffer:
    """Write a classifier as a .tflite file, after checking that the file computes what the Keras model computes.

    The model is stripped to its quantized weights, BatchNormalization is folded into them, and the bytes are run on the
    calibration data in every installed runtime of the target and compared with Keras, layer by layer. The file appears
    only when all agree; a file that was there before stays as it was if anything fails.

    | target | activations | low-bit layers | other layers | runs in |
    |---|---|---|---|---|
    | "phone" | int8 | dense 2 bits, 1x1 convolutions 4 bits, others int8 | int8 | LiteRT, TF |
    | "phone", weights="int8" | int8 | int8 | int8 | LiteRT, TF, tflite-runtime |
    | "phone-small" | float | 2 bits | int8 | LiteRT, TF |
    | "mcu" | int8 | look-up tables of 1 bit (binary) or 2 bits (ternary) | int8 | TFLM |
    | "mcu", weights="int8" | int8 | int8 | int8 | TFLM, all others |
    | "edgetpu", "ethos-u" | int8 | int8, which their compilers compress or refuse | int8 | their compilers |
    | "float" | float | float | float | all but NPUs |

    Args:
        model: a low-bit model, an ErrorSilencedModel or a plain float model: built, Sequential or functional, with one
            input of fixed size and one output (logits or probabilities).
        path: file to write, in an existing folder.
        target: see the table.
        calibration: array or tensor `(n, *input_shape)`: samples as in training, all of which set the int8 ranges of
            the activations. 100 to 500 are usual. A layer that is 0 on all of them gets a range of -1 to 1, with a
            warning. Needed for int8; None, the default, is enough for float activations,
            which are then checked on random samples within the bounds.
        io: type of the file's input and output, "int8" (the default: no conversion on the device), "uint8" or
            "float32" (not for NPUs). Always "float32" for float activations.
        bounds: lowest and highest value of a pixel, which set the scale of the input: 1/255 for (0, 1). None, the
            default, is the `bounds` of an ErrorSilencedModel's attack, else (0, 1).
        weights: how "phone" and "mcu" store low-bit layers: "auto", the default, is the least form that the target's
            runtime takes without becoming slower: see the table. "int8" runs everywhere, tflite-runtime included. For
            "phone" also "int4", which is smaller and in convolutions larger than 1x1 3 to 5 times slower, and "int2",
            which refuses networks that have such convolutions.
        c_array: for "mcu" only: also write `path` with the endings .h and .cc, the model as an aligned C array with the
            list of operators and the measured size of the arena.
        ram_budget: for "mcu" only: bytes of RAM for the arena. Decoded tensors lie in the arena, so look-up tables save
            flash and cost RAM. None, the default, sets no limit.
        over_budget: what happens if the arena is larger than `ram_budget`: "int8", the default, stores the largest
            layers in int8 until it fits, with a warning that gives the figures; "error" fails.
        accelerator: for "ethos-u" only: compile the file with Arm's Vela for this NPU, such as "ethos-u55-128", and
            write the result beside `path`, its name ending in _vela. Vela's figures are the result's `compiler_report`
            and go into the metadata. None, the default, writes the file that Vela takes. For "edgetpu" there is nothing
            to choose: `edgetpu_compiler` is run if it is on the PATH, and its file's name ends in _edgetpu.
        labels: names of the classes for the file's metadata.
        report: a RobustnessReport for the file's metadata.

    Returns:
        The opened file, in a runtime of the target, with `agreement` filled in, and `compiler_report`: a VelaReport if
        `accelerator` was passed, an EdgeTpuReport for "edgetpu" (with the compiler's log if it is there), else None.

    Raises:
        ConversionError: if the file disagrees with Keras; names the first bad layer.
        CompilerError: if an NPU's compiler refuses the file, crashes or takes longer than 15 minutes.
        TypeError: if the model is subclassed, of Keras 3 or no model, or the calibration is no array.
        ValueError: for an unknown target, io or option, wrong calibration data, a model of several inputs or unknown
            sizes, weights that are NaN, one with an operator that the target lacks, or an arena over the budget.
        ImportError: for "mcu" without tflite-micro, or an accelerator without ethos-u-vela.
        OSError: if the path can't be written.
    """
    rules, io = get_target(target), get_io(io, target)
    check_options(target, rules.storage, weights, c_array, ram_budget, over_budget)
    check_accelerator(accelerator, target)
    bounds = get_bounds(bounds, model)
    _check_writable(path)
    if rules.storage == "tables":
        resolve_runtime("tflm")
    network = plain_model(model)
    labels = check_labels(labels, network.output_shape[-1])
    samples = calibration_data(calibration, network.input_shape[1:], rules.quantized, bounds)
    reference = keras_outputs(network, samples)
    names = [layer.name for layer in network.layers], network.output_names[0]

    notes: dict[str, Any] = {"version": _version(), "target": target, "bounds": bounds, "io": io, "labels": labels}
    notes = {key: value for key, value in notes.items() if value is not None}
    if rows := describe_report(report):
        notes["robustness"] = rows

    def finish(content: bytes) -> bytes:
        graph = parse(content)
        if rules.storage not in ("float", "int8"):
            slim(graph, *names)
        return serialize(graph, {**notes, "bits": layer_bits(graph, *names)})

    def runtimes_of(content: bytes) -> list[str]:
        graph = parse(content)
        refusals = {r: refusal(graph, r) for r in rules.runtimes if r in available_runtimes()}
        # What tables are for has no other runtime.
        if rules.storage == "tables" and (why := refusals["tflm"]):
            raise ConversionError(f"Expected a network that target {target!r} can run: {why}. No file was written.")
        return [runtime for runtime, said in refusals.items() if said is None]

    twin = lower(network)
    if rules.storage == "float":
        content = finish(twin)
        agreement = check_float(content, network, samples, reference, runtimes_of(content))
    elif rules.storage == "decoded":
        graph = parse(twin)
        exact = dequantize_kernels(graph, *names)
        content = finish(serialize(graph))
        agreement = check_decoded(content, twin, network, samples, reference, runtimes_of(content), exact)
    else:
        plain = lower(network, with_bounds(samples, bounds), io)
        graph = parse(plain)
        keep_input_scale(graph, plain, twin, bounds, *names)
        check_input_scale(graph, bounds, *names)
        if silent := widen_silent(graph, plain, twin, *names):
            warnings.warn(
                "Expected layers that the calibration data activates. The outputs of "
                f"{', '.join(map(repr, silent))} are always 0: their int8 range, which the data don't tell, is taken "
                "as -1 to 1. Pass samples on which they are active, or remove them.",
                stacklevel=2,
            )
        if rules.storage == "packed":
            pack_kernels(graph, weights, *names)
        if "tflm" in rules.runtimes:
            repair_relu6(graph)
        plain = finish(serialize(graph))
        agreement = check_int8(plain, twin, network, samples, reference, runtimes_of(plain))
        content = plain
        if rules.storage == "tables" and weights != "int8":
            tables = compress_within(plain, *names, ram_budget, over_budget)
            check_table_constants(tables, plain)
            content = finish(tables)
            agreement = check_tables(content, plain, samples, reference, agreement)
    compiled, compiler_report = compile_for_npu(content, Path(path), target, accelerator)
    if isinstance(compiler_report, VelaReport):
        notes["ethos_u"] = compiler_report.to_dict()
        content = finish(content)
    if compiled is not None and compiler_report is not None and compiler_report.compiled is not None:
        write_atomic(compiler_report.compiled, compiled)
    file = Flatbuffer(write_atomic(path, content), runtimes_of(content)[0])
    if c_array:
        write_c_source(Path(path), content, file.smallest_arena())
    file.agreement, file.compiler_report = agreement, compiler_report
    return file


def _version() -> str:
    return str(importlib.import_module("keras_esq").__version__)


class _Probe(Exception):
    """Ends the writing of a file that was only tried."""


def _check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a path before the minutes of converting a large model, not after."""
    with contextlib.suppress(_Probe), atomic_path(Path(path)):
        raise _Probe
