"""`convert`: a Keras model to a .tflite file that is known to compute the same."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from keras_esq._files import atomic_path, write_atomic
from keras_esq.conversion.check import check_float, check_int8, keras_outputs
from keras_esq.conversion.inputs import calibration_data, plain_model
from keras_esq.conversion.lowering import lower
from keras_esq.conversion.targets import get_io, get_target
from keras_esq.runtime import Flatbuffer, available_runtimes


def convert(
    model: Any,
    path: str | os.PathLike[str],
    *,
    target: str = "phone",
    calibration: Any = None,
    io: str = "int8",
) -> Flatbuffer:
    """Write a classifier as a .tflite file, after checking that the file computes what the Keras model computes.

    The model is stripped to its quantized weights, BatchNormalization is folded into them, and the bytes are run on the
    calibration data in every installed runtime of the target and compared with Keras, layer by layer for int8. The file
    appears only when all agree; a file that was there before stays as it was if anything fails.

    Args:
        model: a low-bit model, an ErrorSilencedModel or a plain float model: built, Sequential or functional, with one
            input of fixed size and one output (logits or probabilities).
        path: file to write, in an existing folder.
        target: "phone" and "mcu" are full int8 with per-channel weights, checked in the runtimes of phones (LiteRT,
            tflite-runtime, TF) or of microcontrollers (TFLM); "float" is a plain float file.
        calibration: array or tensor `(n, *input_shape)`: samples as in training, all of which set the int8 ranges of
            the activations. 100 to 500 are usual. Needed for int8; None, the default, is enough for "float", which
            is then checked on random samples in [0, 1).
        io: type of the file's input and output, "int8" (the default: no conversion on the device), "uint8" or
            "float32". Always "float32" for target "float".

    Returns:
        The opened file, in a runtime of the target, with `agreement` filled in.

    Raises:
        ConversionError: if the file disagrees with Keras; names the first bad layer.
        TypeError: if the model is subclassed, of Keras 3 or no model, or the calibration is no array.
        ValueError: for an unknown target or io, wrong calibration data, a model of several inputs or unknown sizes,
            weights that are NaN, or one with an operator that the target lacks.
        OSError: if the path can't be written.
    """
    rules, io = get_target(target), get_io(io, target)
    _check_writable(path)
    network = plain_model(model)
    samples = calibration_data(calibration, network.input_shape[1:], required=rules.quantized)
    reference = keras_outputs(network, samples)
    runtimes = [name for name in rules.runtimes if name in available_runtimes()]
    twin = lower(network)
    if rules.quantized:
        content = lower(network, samples, io)
        agreement = check_int8(content, twin, network, samples, reference, runtimes)
    else:
        content = twin
        agreement = check_float(content, network, samples, reference, runtimes)
    file = Flatbuffer(write_atomic(path, content), runtimes[0])
    file.agreement = agreement
    return file


class _Probe(Exception):
    """Ends the writing of a file that was only tried."""


def _check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a path before the minutes of converting a large model, not after."""
    with contextlib.suppress(_Probe), atomic_path(Path(path)):
        raise _Probe
