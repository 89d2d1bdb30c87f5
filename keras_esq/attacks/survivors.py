"""Several attempts per sample inside a graph, each only on the samples that the former ones left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Attempt = Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


def attack_survivors(attempt: Attempt, attempts: int, x: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
    """The best of up to `attempts` attempts for each sample; a sample that is done takes part in no further one.

    The batch is compacted after each attempt, so that samples which fell early cost nothing later.

    Args:
        attempt: (number, rank so far (m,), x (m, ...), *others (m, ...)) -> x_adv, rank (m,) float32 (the highest is
            kept; -inf counts as nothing found), done (m,) bool. Graph code.
        attempts: at least 1.
        x: images (n, ...), the result where no attempt finds anything.
        others: what else belongs to the samples, (n, ...) each.
    """
    count = tf.shape(x)[0]

    def body(number: tf.Tensor, alive: tf.Tensor, best: tf.Tensor, rank: tf.Tensor) -> tuple[tf.Tensor, ...]:
        rank_before = tf.gather(rank, alive)
        x_adv, rank_now, done = attempt(number, rank_before, *(tf.gather(one, alive) for one in (x, *others)))
        better = rank_now > rank_before
        index = tf.boolean_mask(alive, better)[:, None]
        best = tf.tensor_scatter_nd_update(best, index, tf.boolean_mask(x_adv, better))
        rank = tf.tensor_scatter_nd_update(rank, index, tf.boolean_mask(rank_now, better))
        return number + 1, tf.boolean_mask(alive, ~done), best, rank

    first = (tf.constant(0), tf.range(count), x, tf.fill([count], -float("inf")))
    return tf.while_loop(
        lambda number, alive, *_: (number < attempts) & (tf.size(alive) > 0),
        body,
        first,
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None]), open_batch(x), tf.TensorShape([None])),
        maximum_iterations=attempts,
        parallel_iterations=1,
    )[2]


def compact(keep: tf.Tensor, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The rows of each tensor (m, ...) where `keep` (m,) is True."""
    index = tf.where(keep)[:, 0]
    return [tf.gather(tensor, index) for tensor in tensors]


def open_batch(tensor: tf.Tensor) -> tf.TensorShape:
    """The tensor's shape with an unknown batch size, for loops that compact the batch."""
    return tf.TensorShape([None, *tensor.shape[1:]])


def per_image(values: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """A value per sample (n,) in the shape (n, 1, ...) that broadcasts over the images `x` (n, ...)."""
    return tf.reshape(values, [-1] + [1] * (len(x.shape) - 1))


def where_image(mask: tf.Tensor, yes: tf.Tensor, no: tf.Tensor) -> tf.Tensor:
    """Per sample `yes` (n, ...) where `mask` (n,), else `no`."""
    # Whole rows: four times as fast on CPU as tf.where with a mask to broadcast.
    return tf.raw_ops.Select(condition=mask, x=yes, y=no)


def ranked_classes(labels: tf.Tensor, logits: tf.Tensor, count: int) -> tf.Tensor:
    """The `count` classes (n, count), int32, other than the label with the largest logits, largest first."""
    own = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
    return tf.math.top_k(tf.where(own, logits.dtype.min, logits), k=count).indices


def with_nan(x_adv: tf.Tensor, best: tf.Tensor, nearest: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The best images (n, ...) and their distances (n,), but `x_adv`, as nearer than any, where a search ended in NaN.

    A gradient of NaN ends it there. As nothing found it would pass for robustness.
    """
    lost = tf.reduce_any(tf.math.is_nan(x_adv), list(range(1, len(x_adv.shape))))
    return where_image(lost, x_adv, best), tf.where(lost, -1.0, nearest)


def flat_norm(x: tf.Tensor, norm: Any) -> tf.Tensor:
    """Length (n,) of each image (n, ...): norm "l1", "l2" or "linf"."""
    axes = list(range(1, len(x.shape)))
    if norm == "l2":
        return tf.sqrt(tf.reduce_sum(tf.square(x), axes))
    return (tf.reduce_sum if norm == "l1" else tf.reduce_max)(tf.abs(x), axes)
