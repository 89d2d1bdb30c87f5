"""Where an int8 file quantizes activations: which layers get an activation quantizer."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.quantize.configs import low_bit_kernels

layers = keras.layers

_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.ThresholdedReLU)
_MERGES = (
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum),
    *(layers.Concatenate, layers.Dot),
)
_POOLS = (
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
)


def needs_activation_quantizer(layer: Any) -> bool:
    """Whether the output of `layer` is a quantized tensor of its own in an int8 file.

    Not where the converter fuses it with its only consumer (a kernel before BatchNormalization or an activation,
    BatchNormalization or Add before an activation), where no number changes (pooling by maximum, reshaping), and not
    at a softmax or sigmoid: its logits are what attacks and pairing need, and its range is known beforehand.
    """
    kernel = bool(low_bit_kernels(layer))
    normalization = isinstance(layer, layers.BatchNormalization)
    if not (kernel or normalization or isinstance(layer, (*_ACTIVATIONS, *_MERGES, *_POOLS))):
        return False
    activation = getattr(layer, "activation", None)
    if activation in (keras.activations.softmax, keras.activations.sigmoid):
        return False
    return not all(_is_fused(layer, consumers) for consumers in _consumers(layer))


def _consumers(layer: Any) -> list[list[Any]]:
    """The layers that take the output of `layer`, for each of its calls."""
    outputs = [{id(t) for t in tf.nest.flatten(node.outputs)} for node in layer.inbound_nodes]
    takers = [(node.layer, {id(t) for t in tf.nest.flatten(node.keras_inputs)}) for node in layer.outbound_nodes]
    return [[taker for taker, taken in takers if taken & output] for output in outputs] or [[]]


def _is_fused(layer: Any, consumers: list[Any]) -> bool:
    """Whether the converter fuses a call of `layer` with what takes its output."""
    if len(consumers) != 1:
        return False
    if isinstance(consumers[0], _ACTIVATIONS):
        return not isinstance(layer, (*_ACTIVATIONS, *_POOLS))
    return bool(low_bit_kernels(layer)) and isinstance(consumers[0], layers.BatchNormalization)
