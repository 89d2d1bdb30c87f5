"""Projection onto a hyperplane within a box: the inner problem of FAB."""

from __future__ import annotations

import tensorflow as tf

from keras_esq.attacks.norms import Norm


def to_hyperplane(
    x: tf.Tensor, normal: tf.Tensor, offset: tf.Tensor, bounds: tuple[float, float], norm: Norm
) -> tf.Tensor:
    """The smallest d with <normal, d> = offset and x + d in the box; where none exists, the d that comes nearest.

    By its optimality conditions d moves each pixel in the useful direction as far as the box allows, but no farther
    than a common level: min(level, room) for L-inf, |w| * min(level, room / |w|) for L2. The gain in <normal, d> is
    piecewise linear in the level; sorting its corners gives the level exactly.

    Args:
        x: points in the box (n, d).
        normal: w, (n, d).
        offset: (n,).
        bounds: of the box.
        norm: which length of d is smallest, "linf" or "l2".

    Reference: Croce and Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack", 2020
    (arXiv:1907.02044), section 2.1.
    """
    direction = tf.sign(normal) * tf.sign(offset)[:, None]
    room = tf.where(direction > 0, bounds[1] - x, x - bounds[0])
    weight = tf.abs(normal)
    if norm == "linf":
        corner, slope, unit = room, weight, tf.ones_like(weight)
    else:
        corner, slope, unit = tf.math.divide_no_nan(room, weight), tf.square(weight), weight
    order = tf.argsort(corner, axis=1)
    corners, slopes = (tf.gather(values, order, axis=1, batch_dims=1) for values in (corner, slope))
    # Gain and remaining slope at the left end of each piece; a tail sum by cumsum, as a difference would lose digits.
    tail = tf.cumsum(slopes, axis=1, reverse=True)
    below = tf.cumsum(corners * slopes, axis=1, exclusive=True)
    wanted = tf.abs(offset)[:, None]
    reached = below + corners * tail >= wanted
    piece = tf.argmax(tf.cast(reached, tf.int32), axis=1)
    level = tf.math.divide_no_nan(
        tf.abs(offset) - tf.gather(below, piece, axis=1, batch_dims=1), tf.gather(tail, piece, axis=1, batch_dims=1)
    )
    level = tf.where(tf.reduce_any(reached, axis=1), level, corners[:, -1])
    return direction * unit * tf.minimum(level[:, None], corner)
