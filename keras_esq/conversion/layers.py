"""Layer by layer: where a file leaves the Keras model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_esq._keras import keras
from keras_esq.conversion.alignment import Pair, align, layer_of, quantization
from keras_esq.conversion.noise import with_rounding
from keras_esq.conversion.work import affordable
from keras_esq.runtime import Flatbuffer
from keras_esq.runtime.backends import open_preserving
from keras_esq.runtime.batching import is_batchable
from keras_esq.runtime.flatbuffer_format import items, op_name, parse, text
from keras_esq.runtime.micro import MicroPreserving

# A layer of the int8 file is off if it leaves the rounded float network (noise.py) by more than LAYER_STEPS of RMS, for
# kernels that round more than once, and NOISE_FACTOR of what rounding does to the float network: a file that is right
# and rounds in another way (ties, order of additions) would leave it by the square root of 2. Over 200 random networks
# of 1,426 layers the worst was at 1.1 x (1 step + noise), 99 % were within 0.7; noise itself was up to 17 steps.
LAYER_STEPS = 1.0
NOISE_FACTOR = 1.5

# Between TFLM and the plain kernels, which differ in the rounding of single values.
_MICRO_STEPS = 1.0

# The quantizer gives the inputs of these operators the range of their result, so that inputs may saturate by design (a
# convolution under the MINIMUM of a hard sigmoid). What that costs shows in the result, which is compared as it is.
_SHARED_RANGE = {
    "MINIMUM", "MAXIMUM", "MAX_POOL_2D", "AVERAGE_POOL_2D", "CONCATENATION", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "PAD",
    "PADV2", "MIRROR_PAD", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "SPLIT", "GATHER", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE",
    "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND",
}  # fmt: skip

# Enough to see a wrong layer, few enough for plain kernels on a large network: 8 samples of a WRN-28-10.
_SAMPLES, _MACS = 32, 4e10
_BATCH = 8


@dataclass
class LayerDifference:
    """One layer's output in the int8 file against the float twin.

    Attributes:
        layer: the Keras layer.
        tensor: name of its last tensor in the file.
        steps: RMS difference in int8 steps.
        relative: RMS difference in units of the float output's RMS.
        noise: RMS difference, in int8 steps, that rounding to int8 in this and all earlier layers causes.
        unexplained: RMS difference, in int8 steps, between the file and the float twin with that rounding.
    """

    layer: str
    tensor: str
    steps: float
    relative: float
    noise: float
    unexplained: float

    @property
    def within(self) -> bool:
        """Whether the difference is what rounding to int8 explains."""
        return self.unexplained <= LAYER_STEPS + NOISE_FACTOR * self.noise


def compare_layers(content: bytes, twin: bytes, pairs: list[Pair], x: np.ndarray) -> list[LayerDifference]:
    """The difference of each Keras layer's output between an int8 file and its float twin.

    Args:
        content: the int8 file.
        twin: the float file.
        pairs: their aligned operators.
        x: `(n, *input_shape)`; the first samples are run.
    """
    model, twin_model = parse(content), parse(twin)
    ports = _last_of_layers(model, pairs)
    batch = _BATCH if is_batchable(model) and is_batchable(twin_model) else 1
    rounding, rounded = with_rounding(content, twin, pairs)
    left, right, noisy = (open_preserving(one, batch) for one in (content, twin, rounding))
    quantize = Flatbuffer.from_bytes(content, "tf-builtin").quantize
    # Sums of squares: int8 against float, rounded float against float, int8 against rounded float, float, and a count.
    sums = np.zeros((len(ports), 5))
    x = x[: affordable(model, _MACS, _SAMPLES)]
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        for backend, values in ((left, quantize(part)), (right, part), (noisy, part)):
            backend.invoke(values)
        for row, port in enumerate(ports):
            stored = (left.tensor(port.pair.output[0]).astype(np.float64) - port.zero_point) * port.scale
            real = right.tensor(port.pair.output[1]).astype(np.float64)
            rounded_real = noisy.tensor(rounded[port.pair.output[1]]).astype(np.float64)
            noise = rounded_real - real
            if port.shares_range:
                low, high = ((limit - port.zero_point) * port.scale for limit in (-128, 127))
                real, rounded_real = np.clip(real, low, high), np.clip(rounded_real, low, high)
            for column, values in enumerate((stored - real, noise, stored - rounded_real, real)):
                sums[row, column] += np.square(values).sum()
            sums[row, -1] += real.size
    rms = np.sqrt(sums[:, :-1] / sums[:, -1:])
    return [
        LayerDifference(
            port.pair.layer, port.pair.tensor, steps=error / port.scale, relative=error / max(norm, 1e-12),
            noise=noise / port.scale, unexplained=unexplained / port.scale,
        )
        for port, (error, noise, unexplained, norm) in zip(ports, rms.tolist(), strict=True)
    ]  # fmt: skip


@dataclass(frozen=True)
class _Port:
    """The output of a layer's last operator."""

    pair: Pair
    scale: float
    zero_point: float
    shares_range: bool


def _last_of_layers(model: Any, pairs: list[Pair]) -> list[_Port]:
    """The int8 output of each layer's last operator; what is inside of a layer is its own affair."""
    tensors = model.subgraphs[0].tensors
    sharing = {
        index
        for operator in model.subgraphs[0].operators
        if op_name(model, operator) in _SHARED_RANGE
        for index in items(operator.inputs)
    }
    last = {pair.layer: pair for pair in pairs}
    ports = []
    for pair in last.values():
        stored = list(quantization(tensors[pair.output[0]]))
        if stored:
            scale, zero_point = (float(values.reshape(-1)[0]) for values in stored)
            ports.append(_Port(pair, scale, zero_point, pair.output[0] in sharing))
    return sorted(ports, key=lambda port: pairs.index(port.pair))


def find_float_layer(content: bytes, network: Any, x: np.ndarray) -> str:
    """A sentence that names the first layer of a float file whose output is not the Keras layer's, by tensor names.

    Args:
        content: the float file.
        network: the Keras model.
        x: `(n, *input_shape)`.
    """
    model = parse(content)
    backend = open_preserving(content, 1)
    names = [layer.name for layer in network.layers]
    tensors = {}
    for operator in model.subgraphs[0].operators:
        index = items(operator.outputs)[0]
        if layer := layer_of(text(model.subgraphs[0].tensors[index].name), names):
            tensors[layer] = index
    last = network.output_names[0]
    tensors[last] = items(model.subgraphs[0].outputs)[0]
    # A shared layer has several outputs, of which names don't tell which.
    known = [layer for layer in network.layers if layer.name in tensors and len(layer.inbound_nodes) == 1]
    outputs = keras.Model(network.inputs, [layer.output for layer in known])(x[:1], training=False)
    backend.invoke(x[:1])
    for layer, output in zip(known, outputs if len(known) > 1 else [outputs], strict=True):
        expected, stored = np.asarray(output), backend.tensor(tensors[layer.name])
        # A tensor of another shape is an inner one: names can't tell more.
        if expected.shape == stored.shape and not np.allclose(
            stored, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()
        ):
            return f"The first layer that differs is {layer.name!r}. No file was written."
    return f"No layer before the last, {last!r}, can be told apart. No file was written."


def find_micro_layer(content: bytes, pairs: list[Pair], x: np.ndarray, last: str) -> str:
    """The first layer of an int8 file whose output in TFLM is not that of the plain kernels.

    Args:
        content: the int8 file.
        pairs: its operators, aligned with those of the float twin.
        x: `(n, *input_shape)`; the first samples are run.
        last: what to answer if all layers agree.
    """
    graph = parse(content).subgraphs[0]
    left, right = open_preserving(content, 1), MicroPreserving(content)
    errors = np.zeros(len(pairs))
    for sample in Flatbuffer.from_bytes(content, "tf-builtin").quantize(x[:_BATCH]):
        left.invoke(sample[None])
        right.invoke(sample[None])
        for row, pair in enumerate(pairs):
            difference = right.tensor(pair.output[0]).astype(np.float64) - left.tensor(pair.output[0])
            errors[row] = max(errors[row], np.sqrt(np.mean(np.square(difference))))
    quantized = [bool(list(quantization(graph.tensors[pair.output[0]]))) for pair in pairs]
    bad = [pair.layer for pair, error, q in zip(pairs, errors, quantized, strict=True) if q and error > _MICRO_STEPS]
    return bad[0] if bad else last


def find_difference(content: bytes, plain: bytes, network: Any, x: np.ndarray) -> str:
    """A sentence that names the first layer of a float file whose output is not that of another file of the same graph.

    Args:
        content: the file.
        plain: the other file.
        network: the Keras model.
        x: `(1, *input_shape)`.
    """
    left, right = open_preserving(content, 1), open_preserving(plain, 1)
    left.invoke(x)
    right.invoke(x)
    for pair in align(content, plain, [layer.name for layer in network.layers], network.output_names[0]):
        stored, expected = left.tensor(pair.output[0]), right.tensor(pair.output[1])
        if not np.allclose(stored, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()):
            return f"The first layer that differs is {pair.layer!r}."
    return f"The plain kernels agree in every layer; the first to suspect is the last, {network.output_names[0]!r}."
