"""MART."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from keras_esq._checks import check_nonnegative
from keras_esq.training.objectives.base import Objective
from keras_esq.training.objectives.divergence import kl_divergence
from keras_esq.training.step import Result, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mart(Objective):
    """BCE(x_adv) + beta * mean KL(p(x) || p(x_adv)) * (1 - p_y(x)). Alias "mart".

    BCE, the boosted cross-entropy, is the compiled loss on x_adv plus the mean of -log(1 - max over k other than y of
    p_k(x_adv)); with a cross-entropy compiled that is the paper's. The factor 1 - p_y(x) makes images count that are
    classified wrong. The compiled metrics are those on x. x and x_adv pass the network together.

    Args:
        beta: weight of the divergence, >= 0; the paper's lambda. Default 5, that of the authors' code.

    Raises:
        TypeError, ValueError: for a beta that is no number >= 0.

    Reference: Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020.
    """

    needs_classes: ClassVar[bool] = True

    beta: float = 5.0

    def __post_init__(self) -> None:
        self._set("beta", check_nonnegative("beta", self.beta))

    def loss(self, step: Step, x_adv: Any) -> Result:
        """See `Objective.loss`."""
        clean, adv = step.forward_pair(x_adv)
        p_label = tf.gather(tf.nn.softmax(clean.class_logits), step.labels, axis=1, batch_dims=1)
        divergence = kl_divergence(clean.class_logits, adv.class_logits)
        term = step.ramped(self.beta * step.mean(divergence * (1.0 - p_label)))
        margin = step.mean(margin_loss(step.labels, adv.class_logits))
        return Result(step.compiled_loss(adv.outputs, margin, term), step.x, clean.outputs, term, adv.logits)


def margin_loss(labels: Any, logits: Any) -> Any:
    """-log(1 - max over k other than the label of p_k), (n,).

    Computed without the probabilities, so that neither it nor its gradient overflows where p_k rounds to 1.

    Args:
        labels: class ids (n,), int32.
        logits: (n, classes).
    """
    classes, lowest = logits.shape[-1], logits.dtype.min
    own = tf.one_hot(labels, classes, on_value=True, off_value=False, dtype=tf.bool)
    rival = tf.argmax(tf.where(own, lowest, logits), axis=1)
    is_rival = tf.one_hot(rival, classes, on_value=True, off_value=False, dtype=tf.bool)
    rest = tf.reduce_logsumexp(tf.where(is_rival, lowest, logits), axis=1)
    return tf.reduce_logsumexp(logits, axis=1) - rest
