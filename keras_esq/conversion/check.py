"""Whether a .tflite file computes what the Keras model computes.

Three questions, from the strictest to the whole:

1. Constants: is each stored weight and bias the folded float one, rounded to its own scale?
2. Layers: does each layer's int8 output follow the float network's, up to the noise of int8?
3. Outputs: does every runtime give what Keras gives?

The float network of questions 1 and 2 is a float .tflite of the same function ("twin"), which has the same operators
after folding and fusing and is itself held to Keras' outputs.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_esq.conversion.alignment import layer_name
from keras_esq.conversion.constants_check import ConversionError, check_constants
from keras_esq.conversion.dequantizing import with_float_kernels
from keras_esq.conversion.layers import (
    NOISE_FACTOR,
    compare_layers,
    find_difference,
    find_float_layer,
    find_micro_layer,
)
from keras_esq.conversion.lookup import same_constants, uses_tables
from keras_esq.conversion.work import affordable
from keras_esq.runtime import Agreement, Flatbuffer, LayerAgreement, RuntimeAgreement
from keras_esq.runtime.flatbuffer_format import items, op_name, parse

# A float file differs from Keras by the order of additions: 2e-6 of the outputs' RMS at most over 40 random networks.
FLOAT_RELATIVE = 1e-3

# An int8 output may be off by OUTPUT_STEPS of RMS, in which kernels differ, and NOISE_FACTOR of what rounding does to
# the float network. Over 200 random networks, correct outputs were within 0.4 steps + 1.1 x noise in all runtimes.
OUTPUT_STEPS = 2.0

# Rounding itself may make a file useless: beyond OUTPUT_RELATIVE of the outputs' RMS, if that is more than a few steps.
OUTPUT_RELATIVE = 0.25
OUTPUT_FEW_STEPS = 4.0

# Decisions that a file must keep not to be warned of where its steps are wider than the lead of the first class.
_TOP1 = 0.9

# Where a runtime refuses a file: other ones, and TFLM.
_ADVICE = (
    "Float activations avoid it: use target='phone-small' or 'float'. Or use weights='int8', or target='ethos-u', "
    "plain int8 that runs without XNNPACK (litert-builtin, tflite-runtime), or change these layers.",
    "Use other layers there, or target='phone', 'phone-small' or 'float' on devices with more than TFLM.",
)

# TFLM's plain loops do 1.5e9 multiply-accumulates a second: 7 seconds. All samples of a network of 30 million.
_MICRO_MACS = 1e10

_BATCH = 32


def keras_outputs(network: Any, x: np.ndarray) -> np.ndarray:
    """Outputs `(n, classes)` of the Keras model in inference mode.

    Raises:
        ValueError: if they are NaN or infinite.
    """
    # Eager on purpose: TensorFlow 2.21's graph optimizer fuses BatchNormalization with activations that its CPU kernel
    # then refuses ("Fusion is not implemented: [FusedBatchNorm,Tanh]").
    parts = [np.asarray(network(x[i : i + _BATCH], training=False)) for i in range(0, len(x), _BATCH)]
    outputs = np.concatenate(parts)
    if not np.isfinite(outputs).all():
        raise ValueError(
            "Expected finite outputs on the calibration data. The Keras model itself gives NaN or infinity. "
            "Check its weights and the range of the calibration data."
        )
    return outputs


def check_float(
    content: bytes, network: Any, x: np.ndarray, reference: np.ndarray, runtimes: Sequence[str]
) -> Agreement:
    """Compare a float file with Keras in each runtime.

    Args:
        content: the file.
        network: the stripped Keras model.
        x: `(n, *input_shape)`.
        reference: `(n, classes)`, the Keras outputs on x.
        runtimes: names of the runtimes.

    Raises:
        ConversionError: where they disagree.
    """
    results = {}
    for runtime in runtimes:
        outputs = Flatbuffer.from_bytes(content, runtime).predict(x)
        difference = _relative(outputs, reference)
        if not difference <= FLOAT_RELATIVE:
            raise ConversionError(
                f"Expected the float file to give Keras' outputs to {FLOAT_RELATIVE:g} of their RMS. Runtime "
                f"{runtime!r} is {difference:.3g} off. {find_float_layer(content, network, x[:_BATCH])}"
            )
        results[runtime] = _agreement(outputs, reference)
    return Agreement(len(x), results)


def check_int8(
    content: bytes, twin: bytes, network: Any, x: np.ndarray, reference: np.ndarray, runtimes: Sequence[str]
) -> Agreement:
    """Compare an int8 file with Keras: constants, layers, and outputs in each runtime. Arguments as of `check_float`.

    Args:
        twin: the float file of the same network.

    Raises:
        ConversionError: where they disagree, naming the first bad layer.
    """
    _check_twin(twin, network, x, reference)
    pairs = check_constants(content, twin, network)
    layers = compare_layers(content, twin, pairs, x)
    bad = next((layer for layer in layers if not layer.within), None)
    if bad is not None:
        raise ConversionError(
            f"Expected the int8 file to follow the Keras model. The first layer that does not is {bad.layer!r} (tensor "
            f"{bad.tensor!r}): its RMS difference is {bad.relative:.3g} of its RMS and {bad.steps:.3g} int8 steps, "
            f"of which rounding to int8 explains {bad.noise:.3g} and {bad.unexplained:.3g} are left. "
            "No file was written. Pass calibration samples that cover the range of the data; if they do, this is a "
            "fault of the converter: keep this layer float, or replace it."
        )
    results, step, noise = {}, _output_step(content), layers[-1].noise if layers else 0.0
    for runtime in runtimes:
        part = slice(affordable(parse(content), _MICRO_MACS, len(x)) if runtime == "tflm" else len(x))
        try:
            outputs = Flatbuffer.from_bytes(content, runtime).predict(x[part])
        except RuntimeError as error:
            raise ConversionError(
                f"Expected runtime {runtime!r} of the target to take the file. {error} "
                f"{_layers_of(content, network, str(error))}No file was written. {_ADVICE[runtime == 'tflm']}"
            ) from error
        rms = _rms(outputs - reference[part])
        if not rms <= (OUTPUT_STEPS + NOISE_FACTOR * noise) * step:
            layer = network.output_names[0]
            if runtime == "tflm":
                layer = find_micro_layer(content, pairs, x, layer)
            raise ConversionError(
                f"Expected runtime {runtime!r} to give Keras' outputs on the calibration data. Their RMS difference is "
                f"{rms / step:.3g} int8 steps, of which rounding to int8 explains {noise:.3g}, while each layer by "
                f"itself agrees in the plain kernels: the first layer to suspect is {layer!r}. No file was written. "
                "Update the runtime's package, or pass more calibration samples."
            )
        if rms > OUTPUT_RELATIVE * _rms(reference[part]) and rms > OUTPUT_FEW_STEPS * step:
            worst, share = max(layers, key=lambda layer: layer.relative), rms / _rms(reference[part])
            raise ConversionError(
                f"Expected int8 to be fine enough for the network. Rounding alone moves its outputs by "
                f"{rms / step:.3g} int8 steps of RMS, {share:.3g} of their own RMS; layer {worst.layer!r} suffers "
                "most. No file was written. Its values are small beside their range: bound them (ReLU6, "
                "BatchNormalization), or use target='phone-small' or 'float', whose activations are float."
            )
        results[runtime] = _agreement(outputs, reference[part])
    _warn_if_coarse(reference, step, min((result.top1 for result in results.values()), default=1.0))
    return Agreement(
        len(x), results, tuple(LayerAgreement(d.layer, d.tensor, d.steps, d.relative, d.noise) for d in layers)
    )


def check_tables(
    content: bytes, original: bytes, x: np.ndarray, reference: np.ndarray, agreement: Agreement
) -> Agreement:
    """Compare a file of look-up tables with its int8 file: equal constants, and equal outputs in TFLM, to the bit.

    Args:
        content: the file of look-up tables.
        original: the int8 file, which `check_int8` has seen.
        x: `(n, *input_shape)`.
        reference: `(n, classes)`, the Keras outputs on x.
        agreement: that of the int8 file.

    Raises:
        ConversionError: where they disagree.
    """
    if not uses_tables(parse(content)):
        return agreement
    check_table_constants(content, original)
    file, plain = Flatbuffer.from_bytes(content, "tflm"), Flatbuffer.from_bytes(original, "tflm")
    part = slice(affordable(parse(content), _MICRO_MACS, len(x)))
    outputs = file.predict(x[part])
    # Both have the same scale, so that equal stored values are equal numbers.
    if not np.array_equal(outputs, plain.predict(x[part])):
        raise ConversionError(
            "Expected TFLM to give the same outputs, bit by bit, with look-up tables and with int8 weights. They "
            "differ. No file was written. Update tflite-micro; target='ethos-u' writes plain int8 meanwhile."
        )
    return Agreement(len(x), {"tflm": _agreement(outputs, reference[part])}, agreement.layers)


def check_table_constants(content: bytes, original: bytes) -> None:
    """Hold a file of look-up tables to the constants of its int8 file.

    Raises:
        ConversionError: if it does not decode to them.
    """
    if not same_constants(content, original):
        raise ConversionError(
            "Expected look-up tables that decode to the weights of the int8 file. They do not. No file was written. "
            "This is a fault of keras_esq: please report it, and use target='ethos-u' for plain int8 meanwhile."
        )


def check_decoded(
    content: bytes,
    twin: bytes,
    network: Any,
    x: np.ndarray,
    reference: np.ndarray,
    runtimes: Sequence[str],
    exact: bool,
) -> Agreement:
    """Compare a file of decoded weights and float activations with Keras. Arguments as of `check_int8`.

    Args:
        exact: whether all its weights are low-bit, so that only float rounding is left.

    Raises:
        ConversionError: where they disagree, naming the first bad layer.
    """
    _check_twin(twin, network, x, reference)
    check_constants(content, twin, network)
    # The same graph with the decoded weights as plain float constants: what the file must compute.
    plain = with_float_kernels(content)
    expected = reference if exact else Flatbuffer.from_bytes(plain, "tf").predict(x)
    if not (difference := _relative(expected, reference)) <= OUTPUT_RELATIVE:
        raise ConversionError(
            f"Expected the layers that are not low-bit to survive int8 weights. The outputs' RMS difference is "
            f"{difference:.3g} of their RMS. No file was written. Quantize these layers in training, or use "
            "target='float'."
        )
    results = {}
    for runtime in runtimes:
        outputs = Flatbuffer.from_bytes(content, runtime).predict(x)
        if not (difference := _relative(outputs, expected)) <= FLOAT_RELATIVE:
            raise ConversionError(
                f"Expected the file to give the outputs of its weights to {FLOAT_RELATIVE:g} of their RMS. Runtime "
                f"{runtime!r} is {difference:.3g} off. {find_difference(content, plain, network, x[:1])} No file was "
                "written."
            )
        results[runtime] = _agreement(outputs, reference)
    return Agreement(len(x), results)


def _check_twin(twin: bytes, network: Any, x: np.ndarray, reference: np.ndarray) -> None:
    """Hold the float twin to Keras.

    XNNPACK is fast, but that of TF 2.21 and tflite-runtime 2.14 computes a few convolutions wrong (1x3 with strides
    (2, 1)). What a twin is used for, it computes in the plain kernels.
    """
    try:
        check_float(twin, network, x, reference, ["tf"])
    except ConversionError:
        check_float(twin, network, x, reference, ["tf-builtin"])


def _layers_of(content: bytes, network: Any, message: str) -> str:
    """A sentence with the layers whose operators a runtime's message names; empty if it names none."""
    model, names = parse(content), ([layer.name for layer in network.layers], network.output_names[0])
    named = [one for one in model.subgraphs[0].operators if re.search(rf"\b{op_name(model, one)}\b", message)]
    found = dict.fromkeys(repr(layer_name(model, one, *names)) for one in named)
    return f"Layers of that kind: {', '.join(found)}. " if found else ""


def _warn_if_coarse(reference: np.ndarray, step: float, top1: float) -> None:
    """Warn where int8 can't tell the classes apart, as in a softmax over hundreds of them: its step is 1/256."""
    if top1 < _TOP1 and (lead := float(np.median(_leads(reference)))) < step:
        warnings.warn(
            f"Expected classes that int8 can tell apart. The file keeps {top1:.0%} of the decisions: between the first "
            f"two classes lie {lead / step:.2g} int8 steps of the output (median). End the network in logits, or use "
            "target='phone-small' or 'float'.",
            stacklevel=4,
        )


def _output_step(content: bytes) -> float:
    """One int8 step of the output, also where the file gives it as float32."""
    model = parse(content)
    graph = model.subgraphs[0]
    index = items(graph.outputs)[0]
    last = next(operator for operator in graph.operators if index in items(operator.outputs))
    if op_name(model, last) == "DEQUANTIZE":
        index = items(last.inputs)[0]
    return float(graph.tensors[index].quantization.scale[0])


def _agreement(outputs: np.ndarray, reference: np.ndarray) -> RuntimeAgreement:
    difference = outputs - reference
    top1 = float(np.mean(_classes(outputs, reference) == _classes(reference, reference)))
    return RuntimeAgreement(top1, float(np.abs(difference).max()), _rms(difference), len(outputs))


def _classes(outputs: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The class of each sample; of a single unit by the side of its boundary."""
    return outputs.argmax(-1) if outputs.shape[-1] > 1 else outputs[..., 0] > _boundary(reference)


def _leads(reference: np.ndarray) -> np.ndarray:
    """How far the second class is behind the first; of a single unit, how far the boundary is."""
    if reference.shape[-1] == 1:
        return np.abs(reference[..., 0] - _boundary(reference))
    second, first = np.moveaxis(np.partition(reference, (-2, -1), -1)[..., -2:], -1, 0)
    return first - second


def _boundary(reference: np.ndarray) -> float:
    """Between the classes of a single unit: 0.5 of a probability, 0 of a logit."""
    return 0.5 if reference.min() >= 0 and reference.max() <= 1 else 0.0


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _relative(outputs: np.ndarray, reference: np.ndarray) -> float:
    return _rms(outputs - reference) / max(_rms(reference), 1e-12)
