"""Binary, ternary and 8-bit weights as pure functions W -> Q."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

Axis = int | tuple[int, ...]
FULL_SCALE = 127  # of int8, symmetric


# Plain tensor code: AutoGraph would only slow its tracing, once per weight.
as_written = tf.autograph.experimental.do_not_convert


@as_written
def binarize(w: Any, axis: Axis = -1) -> tf.Tensor:
    """Quantize each filter of `w` to two values, -alpha and +alpha, with alpha = mean |w| of the filter.

    sign(0) counts as +1. A filter that is all zero stays all zero. The gradient is straight-through: dL/dw = dL/dq.

    Args:
        w: weights of any shape, a floating tensor, variable or array.
        axis: the axis, or axes, of the output channels; every index along them is one filter.

    Returns:
        A tensor of the shape and type of `w`.

    Raises:
        TypeError: if `w` is not of a floating type.
        ValueError: if `axis` is outside the rank of `w`.

    Reference: BWN in [SQ], after Rastegari et al. 2016 (arXiv 1603.05279).
    """
    w, reduced = prepare(w, axis)
    magnitude = accumulate(tf.abs(w))
    alpha = tf.reduce_mean(magnitude, axis=reduced, keepdims=True)
    return straight_through(w, tf.where(w >= 0, alpha, -alpha))


@as_written
def ternarize(w: Any, axis: Axis = -1, threshold: float = 0.7) -> tf.Tensor:
    """Quantize each filter of `w` to three values, -alpha, 0 and +alpha.

    Weights with |w| > threshold * mean |w| of their filter become +-alpha, where alpha is the mean of |w| over just
    those; the others become 0. A filter that is all zero stays all zero. The gradient is straight-through.

    Args:
        w: weights of any shape, a floating tensor, variable or array.
        axis: the axis, or axes, of the output channels; every index along them is one filter.
        threshold: in units of the filter's mean |w|. 0.7 minimizes ||W - T|| for normally distributed weights.

    Returns:
        A tensor of the shape and type of `w`.

    Raises:
        TypeError: if `w` is not of a floating type.
        ValueError: if `axis` is outside the rank of `w`, or `threshold` is negative or not finite.

    Reference: TWN, Li et al. 2016 (arXiv 1605.04711), as used in [SQ].
    """
    threshold = check_threshold(threshold)
    w, reduced = prepare(w, axis)
    magnitude = accumulate(tf.abs(w))
    delta = threshold * tf.reduce_mean(magnitude, axis=reduced, keepdims=True)
    # A NaN compares false with everything and would become a silent 0; kept apart, it stays visible.
    kept = magnitude > delta
    total = tf.reduce_sum(tf.where(kept, magnitude, 0.0), axis=reduced, keepdims=True)
    count = tf.reduce_sum(tf.cast(kept, magnitude.dtype), axis=reduced, keepdims=True)
    alpha = tf.math.divide_no_nan(total, count) + 0.0 * delta
    return straight_through(w, tf.where(kept, tf.where(w >= 0, alpha, -alpha), 0.0 * delta))


@as_written
def round_int8(w: Any, axis: Axis = -1) -> tf.Tensor:
    """Round each filter of `w` to whole multiples, from -127 to 127, of scale = max |w| / 127 of the filter.

    These are the values that an int8 file can hold: symmetric, with a scale a filter. A filter that is all zero stays
    all zero. The gradient is straight-through.

    Args:
        w: weights of any shape, a floating tensor, variable or array.
        axis: the axis, or axes, of the output channels; every index along them is one filter.

    Returns:
        A tensor of the shape and type of `w`.

    Raises:
        TypeError: if `w` is not of a floating type.
        ValueError: if `axis` is outside the rank of `w`.

    Reference: Jacob et al. 2017 (arXiv 1712.05877); symmetric and a scale a filter as in TensorFlow Lite's
    specification of 8-bit quantization.
    """
    w, reduced = prepare(w, axis)
    values = accumulate(w)
    magnitude = tf.abs(values)
    # 0 * mean: the largest of numbers and a NaN may be a number.
    largest = tf.reduce_max(magnitude, axis=reduced, keepdims=True) + 0.0 * tf.reduce_mean(
        magnitude, axis=reduced, keepdims=True
    )
    scale = largest / FULL_SCALE
    return straight_through(w, tf.round(tf.math.divide_no_nan(values, scale)) * scale)


def prepare(w: Any, axis: Axis) -> tuple[tf.Tensor, list[int]]:
    """The tensor, and the axes that lie inside one filter."""
    w = tf.convert_to_tensor(w)
    if not w.dtype.is_floating:
        raise TypeError(f"Expected floating-point weights. Received dtype {w.dtype.name}. Cast them first.")
    rank = w.shape.rank
    channels = tuple(axis) if isinstance(axis, Iterable) else (axis,)
    if any(not -rank <= a < rank for a in channels):
        raise ValueError(
            f"Expected the channel axis within the rank of the weights, {rank}. Received axis={axis} for shape "
            f"{tuple(w.shape)}. Use -1 for layers whose last axis is the output channel."
        )
    kept = {a % rank for a in channels}
    return w, [a for a in range(rank) if a not in kept]


def accumulate(x: tf.Tensor) -> tf.Tensor:
    """Half-precision weights are averaged in float32: a float16 sum overflows at 65,504."""
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def straight_through(w: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    """`q` in the forward pass, to the bit; the identity to `w` in the backward pass."""

    @tf.custom_gradient
    def identity(w: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.cast(tf.stop_gradient(q), w.dtype), lambda upstream: upstream

    return identity(w)


def check_threshold(threshold: float) -> float:
    """`threshold` as a float, if it is finite and >= 0; else TypeError or ValueError."""
    if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real):
        raise TypeError(f"Expected threshold as a number. Received {threshold!r}. The literature's value is 0.7.")
    if not math.isfinite(threshold) or threshold < 0:
        raise ValueError(
            f"Expected a finite threshold >= 0, in units of mean |w|. Received {threshold}. The literature's is 0.7."
        )
    return float(threshold)
