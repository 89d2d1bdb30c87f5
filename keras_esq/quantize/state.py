"""The state of stochastic quantization in a model: ratio and partition of each low-bit weight."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_esq.quantize.graph import walk_layers
from keras_esq.quantize.partition import draw_partitions, hold
from keras_esq.quantize.wrapper import LowBitWeight, wrapper_low_bit_weights


def low_bit_weights(model: Any) -> list[LowBitWeight]:
    """The low-bit weights of `model`, in the order of its layers; empty for a float model."""
    return [weight for layer in walk_layers(model) for weight in wrapper_low_bit_weights(layer)]


def set_ratio(model: Any, ratio: float) -> None:
    """Set the share of filters that each training step quantizes from now on; at 1 all filters are, at once.

    Args:
        model: a low-bit model.
        ratio: in [0, 1].

    Raises:
        TypeError: if `ratio` is not a number.
        ValueError: if it is outside [0, 1], or if the model has no low-bit weights.
    """
    ratio = check_ratio(ratio)
    for weight in _some_low_bit_weights(model):
        weight.ratio.assign(ratio)
        if ratio == 1.0:
            weight.partition.assign(tf.ones_like(weight.partition))


def get_ratio(model: Any) -> float:
    """The share of filters that each training step quantizes.

    Raises:
        ValueError: if the model has no low-bit weights.
    """
    return float(_some_low_bit_weights(model)[0].ratio.numpy())


def check_ratio(ratio: Any) -> float:
    """`ratio` as a float, if it is a number in [0, 1]."""
    try:
        value = float(ratio)
    except (TypeError, ValueError):
        raise TypeError(f"Expected the quantization ratio as a number. Received {ratio!r}.") from None
    if not math.isfinite(value) or not 0.0 <= value <= 1.0:
        raise ValueError(f"Expected a quantization ratio from 0 to 1. Received {ratio!r}. 1 quantizes every filter.")
    return value


@tf.autograph.experimental.do_not_convert  # plain tensor code, faster to trace as it is written
def renew_partition(weights: list[LowBitWeight], seed: Any) -> list[tf.Tensor]:
    """Draw a new partition for each weight and put it into force; at ratio 1 every filter is quantized.

    Args:
        weights: from `low_bit_weights`.
        seed: stateless seed, int32 of shape (2,).

    Returns:
        The weights as the training step sees them, partly quantized, without a gradient: what `held_weights` holds.
    """
    quantized = [weight.quantized for weight in weights]
    groups: dict[tuple[str, str], list[int]] = {}
    for number, weight in enumerate(weights):
        if weight.quantizer.stochastic:
            groups.setdefault((weight.quantizer.probability, weight.quantizer.partition), []).append(number)
    mixed = list(quantized)
    for group, ((probability, partition), numbers) in enumerate(groups.items()):
        drawn = draw_partitions(
            [tf.reshape(weights[i].quantizer.error(weights[i].latent, quantized[i]), [-1]) for i in numbers],
            tf.stack([weights[i].ratio for i in numbers]),
            tf.random.experimental.stateless_fold_in(seed, group),
            probability=probability,
            partition=partition,
        )
        for i, chosen in zip(numbers, drawn, strict=True):
            weights[i].partition.assign(tf.reshape(chosen, weights[i].partition.shape))
            mixed[i] = weights[i].quantizer.mix(weights[i].latent, quantized[i], chosen)
    return [tf.stop_gradient(value) for value in mixed]


@contextlib.contextmanager
def held_weights(weights: list[LowBitWeight], values: list[tf.Tensor]) -> Iterator[None]:
    """Within the block, the network computes with `values` in place of quantizing its `weights` in each pass.

    In training mode their gradient goes straight through to the latent weights. To be used while a graph is traced:
    the held tensors belong to that graph.
    """
    with hold({id(weight.partition): value for weight, value in zip(weights, values, strict=True)}):
        yield


@contextlib.contextmanager
def frozen_weights(model: Any) -> Iterator[None]:
    """Within the block, each low-bit weight is quantized once, every filter, at its start, and held constant.

    For attacks, which run the network many times on unchanged weights. To be used while a graph is traced, as
    `held_weights`. It does nothing for a float model.
    """
    weights = low_bit_weights(model)
    with held_weights(weights, [tf.stop_gradient(weight.quantized) for weight in weights]):
        yield


def _some_low_bit_weights(model: Any) -> list[LowBitWeight]:
    weights = low_bit_weights(model)
    if not weights:
        raise ValueError(
            f"Expected a model with low-bit weights. Received {getattr(model, 'name', model)!r}, which has none. "
            "Make one with esq.quantize_model(model, weights='ternary')."
        )
    return weights
