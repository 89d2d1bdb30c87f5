"""Stochastic partition [SQ]: which filters of a weight are quantized in a training step."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

PARTITIONS = ("quantized", "real")
PROBABILITIES = ("constant", "linear", "softmax", "sigmoid")

# The tiny of f = 1/(e + tiny): far below the error of any real filter (0.1 to 1), far above float32's smallest.
TINY = 1e-7


def relative_error(w: tf.Tensor, q: tf.Tensor, axis: list[int]) -> tf.Tensor:
    """||W - Q||_1 / ||W||_1 over `axis`; 0 where W is all zero."""
    error = tf.reduce_sum(tf.abs(w - q), axis=axis)
    return tf.math.divide_no_nan(error, tf.reduce_sum(tf.abs(w), axis=axis))


def log_chances(error: tf.Tensor, probability: str = "linear", partition: str = "quantized") -> tf.Tensor:
    """Logarithms of the chances with which filters are drawn, up to a common constant.

    Args:
        error: relative quantization error of each filter, shape (m,).
        probability: "constant" 1/m, "linear" f/sum f, "softmax" of f, "sigmoid" of f normalized.
        partition: "quantized": f = 1/(error + tiny), filters that quantize well are drawn; "real": f = error, filters
            that quantize badly are drawn (to stay real).

    Returns:
        Shape (m,). Logarithms, because softmax(1/e) overflows float32 for small errors.

    Reference: [SQ], section 3.3.
    """
    f = 1.0 / (error + TINY) if partition == "quantized" else error + TINY
    if probability == "constant":
        return tf.zeros_like(f)
    if probability == "linear":
        return tf.math.log(f)
    if probability == "softmax":
        return f
    return tf.math.log_sigmoid(f)


def draw_partitions(
    errors: Sequence[tf.Tensor],
    ratios: Any,
    seed: Any,
    *,
    probability: str = "linear",
    partition: str = "quantized",
) -> list[tf.Tensor]:
    """Draw the filters to quantize in one training step, for several weights at once.

    Drawing k of m without replacement with chances p (a roulette wheel, turned k times) is the same as taking the k
    largest of log p + Gumbel noise, which needs no loop. All weights are drawn by the same few operations: a graph of
    twenty for each weight would take longer to build than the rest of a training step.

    Args:
        errors: for each weight the relative quantization errors of its filters, shape (m,).
        ratios: share r of filters to quantize in [0, 1], a number or tensor: one for all weights, or one for each.
            Half filters round up.
        seed: stateless seed, int32 of shape (2,).
        probability: as in `log_chances`.
        partition: "quantized" draws the round(r*m) filters to quantize; "real" the others, which stay real.

    Returns:
        For each weight float32 of shape (m,): 1.0 for a filter to quantize, 0.0 for one that stays real. Exactly
        round(r*m) are 1.0.

    Reference: [SQ], algorithm 1; Gumbel top-k: Kool et al. 2019 (arXiv 1903.06059).
    """
    sizes = np.array([int(error.shape[0]) for error in errors])
    owner = np.repeat(np.arange(len(sizes)), sizes)
    rank = np.concatenate([np.arange(size) for size in sizes])
    error = tf.concat([tf.cast(error, tf.float32) for error in errors], axis=0)
    uniform = tf.random.stateless_uniform([sizes.sum()], seed, minval=TINY, maxval=1.0, dtype=tf.float32)
    keys = log_chances(error, probability, partition) - tf.math.log(-tf.math.log(uniform))
    quantized = tf.floor(tf.cast(ratios, tf.float32) * sizes.astype(np.float32) + 0.5)
    drawn = quantized if partition == "quantized" else sizes.astype(np.float32) - quantized
    # By key, then by owner: as sorting is stable, each weight's filters stay in the order of their keys.
    order = tf.argsort(keys, direction="DESCENDING")
    order = tf.gather(order, tf.argsort(tf.gather(owner, order), stable=True))
    in_draw = tf.scatter_nd(order[:, None], tf.cast(rank < tf.gather(drawn, owner), tf.float32), [sizes.sum()])
    return tf.split(in_draw if partition == "quantized" else 1.0 - in_draw, sizes)


# While an attack runs, the low-bit weights are constant: they are quantized once and shared by its steps. The holder
# is consulted while a graph is traced, so a held tensor can't leak into a graph that did not make it.
_HELD: contextvars.ContextVar[Mapping[int, tf.Tensor] | None] = contextvars.ContextVar("held_weights", default=None)


def held_weight(partition: Any) -> tf.Tensor | None:
    """The held quantized weight that belongs to the partition variable, if weights are being held."""
    held = _HELD.get()
    return None if held is None else held.get(id(partition))


@contextlib.contextmanager
def hold(weights: Mapping[int, tf.Tensor]) -> Iterator[None]:
    """Within the block, quantizers return the given tensors (keyed by the id of their partition variable)."""
    token = _HELD.set(weights)
    try:
        yield
    finally:
        _HELD.reset(token)
