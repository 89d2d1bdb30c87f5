"""Layer by layer: where a file leaves the Keras model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_esq._keras import keras
from keras_esq.conversion.alignment import Pair, align, layer_of, quantization
from keras_esq.runtime import Flatbuffer
from keras_esq.runtime.backends import open_preserving
from keras_esq.runtime.batching import is_batchable
from keras_esq.runtime.flatbuffer_format import items, op_name, parse, text
from keras_esq.runtime.micro import MicroPreserving

# A layer is off if its RMS difference passes both bounds. Over 29 random networks of 2 to 20 blocks (float, ternary and
# binary) 99 % of the tensors were within 0.06 or 4 steps, and the worst correct layer was at 0.13 and 25 steps.
LAYER_RELATIVE = 0.25
LAYER_STEPS = 4.0

# The quantizer gives the inputs of these operators the range of their result, so that inputs may saturate by design (a
# convolution under the MINIMUM of a hard sigmoid). What that costs shows in the result, which is compared as it is.
_SHARED_RANGE = {
    "MINIMUM", "MAXIMUM", "MAX_POOL_2D", "AVERAGE_POOL_2D", "CONCATENATION", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "PAD",
    "PADV2", "MIRROR_PAD", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "SPLIT", "GATHER", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE",
    "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND",
}  # fmt: skip

# Enough to see a wrong layer, few enough for plain kernels on a large network.
_SAMPLES = 32
_BATCH = 8


@dataclass
class LayerDifference:
    """One layer's output in the int8 file against the float twin.

    Attributes:
        layer: the Keras layer.
        tensor: name of its last tensor in the file.
        steps: RMS difference in int8 steps.
        relative: RMS difference in units of the float output's RMS.
    """

    layer: str
    tensor: str
    steps: float
    relative: float

    @property
    def within(self) -> bool:
        """Whether the difference is what int8 explains."""
        return self.steps <= LAYER_STEPS or self.relative <= LAYER_RELATIVE


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
    left, right = open_preserving(content, batch), open_preserving(twin, batch)
    quantize = Flatbuffer.from_bytes(content, "tf-builtin").quantize
    errors, norms, counts = (np.zeros(len(ports)) for _ in range(3))
    x = x[:_SAMPLES]
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        left.invoke(quantize(part))
        right.invoke(part)
        for row, port in enumerate(ports):
            real = right.tensor(port.pair.output[1]).astype(np.float64)
            stored = (left.tensor(port.pair.output[0]).astype(np.float64) - port.zero_point) * port.scale
            if port.shares_range:
                real = np.clip(real, (-128 - port.zero_point) * port.scale, (127 - port.zero_point) * port.scale)
            errors[row] += np.square(stored - real).sum()
            norms[row] += np.square(real).sum()
            counts[row] += real.size
    error, norm = np.sqrt(errors / counts), np.sqrt(norms / counts)
    return [
        LayerDifference(port.pair.layer, port.pair.tensor, float(e / port.scale), float(e / max(n, 1e-12)))
        for port, e, n in zip(ports, error, norm, strict=True)
    ]


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
    bad = [pair.layer for pair, error, q in zip(pairs, errors, quantized, strict=True) if q and error > LAYER_STEPS]
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
