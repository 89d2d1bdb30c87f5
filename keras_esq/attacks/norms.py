"""L-infinity and L2: names, distances, directions, and uniform random points of their balls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import tensorflow as tf

Norm = Literal["linf", "l2"]

# What cleverhans calls them.
ORDER: dict[Norm, float] = {"linf": np.inf, "l2": 2}


def get_norm(norm: Any) -> Norm:
    """The name "linf" or "l2" of a norm given by name or, as in numpy and cleverhans, by order (np.inf, 2).

    Raises:
        ValueError: for any other norm.
    """
    for name, order in ORDER.items():
        if (isinstance(norm, str) and norm.lower() == name) or (not isinstance(norm, str) and norm == order):
            return name
    raise ValueError(f"Expected norm to be 'linf' (or np.inf) or 'l2' (or 2). Received: {norm!r}.")


def distances(x: np.ndarray, x_adv: np.ndarray, norm: Norm) -> np.ndarray:
    """Distance (n,) of each pair of images (n, ...), in input units."""
    difference = (np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)).reshape(len(x), math.prod(x.shape[1:]))
    return np.linalg.norm(difference, ord=ORDER[norm], axis=1)


def unit(x: tf.Tensor) -> tf.Tensor:
    """Each of `x` (n, ...) at L2 length 1, however short it was; zeros stay zeros."""
    axes = list(range(1, len(x.shape)))
    # By the largest value first: the squares of a confident network's gradient underflow.
    x = tf.math.divide_no_nan(x, tf.reduce_max(tf.abs(x), axes, keepdims=True))
    return tf.math.divide_no_nan(x, tf.sqrt(tf.reduce_sum(tf.square(x), axes, keepdims=True)))


def random_in_ball(x: tf.Tensor, eps: tf.Tensor, norm: Norm, seed: tf.Tensor) -> tf.Tensor:
    """Points drawn uniformly from the eps ball, one of the shape of an image for each of `x` (n, ...).

    cleverhans' `random_lp_vector` with a stateless generator. L2: a direction from the normal distribution and a
    radius u^(1/d) (Calafiore et al. 1998).

    Args:
        x: gives the shape.
        eps: radius, scalar tensor in input units.
        norm: "linf" or "l2".
        seed: stateless seed, int32 (2,).
    """
    shape = tf.shape(x)
    if norm == "linf":
        return _of_this_replica(lambda s: tf.random.stateless_uniform(s, seed, -1.0, 1.0), shape) * eps
    seeds = tf.random.split(seed, 2)
    direction = _of_this_replica(lambda s: tf.random.stateless_normal(s, seeds[0]), shape)
    axes = list(range(1, len(x.shape)))
    length = tf.sqrt(tf.reduce_sum(tf.square(direction), axes, keepdims=True))
    one_each = tf.concat([shape[:1], tf.ones(len(axes), tf.int32)], 0)
    uniform = _of_this_replica(lambda s: tf.random.stateless_uniform(s, seeds[1]), one_each)
    radius = uniform ** (1.0 / tf.cast(tf.reduce_prod(shape[1:]), tf.float32))
    return eps * radius * tf.math.divide_no_nan(direction, length)


def _of_this_replica(draw: Callable[[tf.Tensor], tf.Tensor], shape: tf.Tensor) -> tf.Tensor:
    """Random numbers of `shape` (n, ...): under tf.distribute the part that one device would have drawn for these n.

    So each image gets the same numbers on however many devices its batch is spread.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return draw(shape)
    numbers = draw(tf.concat([shape[:1] * context.num_replicas_in_sync, shape[1:]], 0))
    start = tf.cast(context.replica_id_in_sync_group, tf.int32) * shape[0]
    return numbers[start : start + shape[0]]
