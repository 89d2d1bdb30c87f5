"""Whether a .tflite file computes what the Keras model computes.

Three questions, from the strictest to the whole:

1. Constants: is each stored weight and bias the folded float one, rounded to its own scale?
2. Layers: does each layer's int8 output follow the float network's, up to the noise of int8?
3. Outputs: does every runtime give what Keras gives?

The float network of questions 1 and 2 is a float .tflite of the same function ("twin"), which has the same operators
after folding and fusing and is itself held to Keras' outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_esq.conversion.constants_check import ConversionError, check_constants
from keras_esq.conversion.dequantizing import with_float_kernels
from keras_esq.conversion.layers import compare_layers, find_difference, find_float_layer, find_micro_layer
from keras_esq.conversion.lookup import same_constants, uses_tables
from keras_esq.runtime import Agreement, Flatbuffer, LayerAgreement, RuntimeAgreement
from keras_esq.runtime.flatbuffer_format import items, op_name, parse

# A float file differs from Keras by the order of additions: 2e-6 of the outputs' RMS at most over 40 random networks.
FLOAT_RELATIVE = 1e-3

# An int8 output is right within OUTPUT_STEPS of RMS difference, whatever else: that much is left where outputs are
# close to 0 or to each other. Beyond, it may be off by OUTPUT_RELATIVE of the outputs' RMS and, from OUTPUT_MANY_STEPS
# on, by OUTPUT_VARIATION of what the outputs vary from sample to sample, which outputs of the wrong sample exceed (1.3
# to 1.7). Over 24 random networks of 2 to 20 blocks the correct ones were within 7 steps and 0.07 of the RMS.
OUTPUT_STEPS = 4.0
OUTPUT_MANY_STEPS = 8.0
OUTPUT_RELATIVE = 0.25
OUTPUT_VARIATION = 0.6

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
    check_float(twin, network, x, reference, ["tf"])
    pairs = check_constants(content, twin, network)
    layers = compare_layers(content, twin, pairs, x)
    bad = next((layer for layer in layers if not layer.within), None)
    if bad is not None:
        raise ConversionError(
            f"Expected the int8 file to follow the Keras model. The first layer that does not is {bad.layer!r} (tensor "
            f"{bad.tensor!r}): its RMS difference is {bad.relative:.3g} of its RMS and {bad.steps:.3g} int8 steps. "
            "No file was written. Pass calibration samples that cover the range of the data; if they do, this is a "
            "fault of the converter: keep this layer float, or replace it."
        )
    results, step = {}, _output_step(content)
    for runtime in runtimes:
        try:
            outputs = Flatbuffer.from_bytes(content, runtime).predict(x)
        except RuntimeError as error:
            raise ConversionError(
                f"Expected runtime {runtime!r} of the target to take the file. {error} No file was written. Its plain "
                "kernels run it: use target='ethos-u' for plain int8, or change the layers that the message tells of."
            ) from error
        if problem := _output_problem(outputs, reference, step):
            layer = network.output_names[0]
            if runtime == "tflm":
                layer = find_micro_layer(content, pairs, x, layer)
            raise ConversionError(
                f"Expected runtime {runtime!r} to give Keras' outputs on the calibration data. Their RMS difference is "
                f"{problem}, while each layer by itself agrees in the plain kernels: the first layer to suspect is "
                f"{layer!r}. No file was written. Update the runtime's package, or pass more "
                "calibration samples."
            )
        results[runtime] = _agreement(outputs, reference)
    return Agreement(len(x), results, tuple(LayerAgreement(d.layer, d.tensor, d.steps, d.relative) for d in layers))


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
    stored = file.quantize(x)
    if not np.array_equal(file.predict_raw(stored), plain.predict_raw(stored)):
        raise ConversionError(
            "Expected TFLM to give the same outputs, bit by bit, with look-up tables and with int8 weights. They "
            "differ. No file was written. Update tflite-micro; target='ethos-u' writes plain int8 meanwhile."
        )
    return Agreement(len(x), {"tflm": _agreement(file.predict(x), reference)}, agreement.layers)


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
    check_float(twin, network, x, reference, ["tf"])
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


def _output_problem(outputs: np.ndarray, reference: np.ndarray, step: float) -> str | None:
    """What is wrong with int8 outputs, or None."""
    rms = _rms(outputs - reference)
    relative = rms / max(_rms(reference), 1e-12)
    variation = rms / max(_rms(reference - reference.mean(axis=0)), 1e-12)
    if rms <= OUTPUT_STEPS * step or (
        relative <= OUTPUT_RELATIVE and (variation <= OUTPUT_VARIATION or rms <= OUTPUT_MANY_STEPS * step)
    ):
        return None
    return (
        f"{rms / step:.3g} int8 steps, {relative:.3g} of their RMS and {variation:.3g} of their variation over samples"
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
    top1 = float(np.mean(outputs.argmax(-1) == reference.argmax(-1)))
    return RuntimeAgreement(top1, float(np.abs(difference).max()), _rms(difference))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _relative(outputs: np.ndarray, reference: np.ndarray) -> float:
    return _rms(outputs - reference) / max(_rms(reference), 1e-12)
