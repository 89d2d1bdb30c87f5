"""What attacks maximize: pure functions (labels (n,), class logits (n, k)) -> (n,), higher = more wrong.

The signature is cleverhans' `loss_fn(labels, logits)`.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from keras_esq._checks import near_matches

AttackLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of the softmax. Vanishes in float32 where the true class leads by more than about 100."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def margin(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Largest other logit minus the true logit: > 0 exactly where the sample is wrong. Never saturates."""
    return _largest_other(labels, logits) - _true_logit(labels, logits)


def dlr(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Difference of logits ratio: margin / (largest - third largest logit), so that scaling the logits is no defence.

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", 2020, equation 6.

    Raises:
        ValueError: with fewer than three classes, where the ratio is not defined.
    """
    if logits.shape[-1] < 3:
        raise ValueError(
            f"Expected three or more classes for loss='dlr'. Received {logits.shape[-1]}. Use loss='margin' or 'ce'."
        )
    top = tf.math.top_k(logits, k=3).values
    # 1e-12 as in the reference implementation: equal logits give 0, not NaN.
    return margin(labels, logits) / (top[:, 0] - top[:, 2] + 1e-12)


def _true_logit(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.gather(logits, labels, axis=1, batch_dims=1)


def _largest_other(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    true_class = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
    return tf.reduce_max(tf.where(true_class, logits.dtype.min, logits), axis=1)


LOSSES: dict[str, AttackLoss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


def get_loss(loss: str | AttackLoss) -> AttackLoss:
    """The loss behind an alias ("ce", "margin", "dlr") or a function (labels, logits) -> (n,).

    Raises:
        ValueError: for an unknown alias, naming the known ones.
        TypeError: for anything else.
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"Expected loss to be an alias or a function (labels, logits) -> (n,). Received: {loss!r}.")
    if loss not in LOSSES:
        raise ValueError(f"Expected a known loss. Received: {loss!r}. {near_matches(loss, LOSSES)}")
    return LOSSES[loss]
