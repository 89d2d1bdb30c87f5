"""Kullback-Leibler divergences between class probabilities, from logits."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from keras_esq.attacks.apgd import APGD
from keras_esq.attacks.gradient import GradientAttack


def kl_divergence(p_logits: Any, q_logits: Any, temperature: float = 1.0) -> Any:
    """KL(p || q) = sum_k p_k * (log p_k - log q_k) of p, q = softmax(logits / temperature), sample by sample.

    Args:
        p_logits: (n, classes).
        q_logits: (n, classes).
        temperature: > 0.

    Returns:
        (n,), >= 0. The gradient runs through both.
    """
    log_p, log_q = (tf.nn.log_softmax(logits / temperature) for logits in (p_logits, q_logits))
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=1)


def climbing(attack: Any, p_logits: Any) -> Any:
    """The attack, climbing KL(p || p(x_adv)) in place of its own loss; p_logits (n, classes)."""
    target = tf.stop_gradient(p_logits)
    return dataclasses.replace(attack, loss=lambda labels, logits: kl_divergence(target, logits))


def check_climbing(attack: Any, starts_at_random: bool) -> None:
    """Raise ValueError if `climbing` can't be used with the attack.

    Args:
        attack: the training attack.
        starts_at_random: the image itself is no place to start from: there the divergence is 0, its lowest.
    """
    # APGD drops samples on its way, so that the divergence's targets would not be theirs.
    if not isinstance(attack, GradientAttack) or isinstance(attack, APGD):
        raise ValueError(
            f"Expected a gradient attack such as PGD with attack_loss='kl'. Received {attack!r}. Use another attack, "
            "or attack_loss='given'."
        )
    if starts_at_random and not getattr(attack, "random_start", False):
        raise ValueError(
            "Expected an attack with random_start=True for attack_loss='kl', whose gradient is 0 at the image itself. "
            f"Received {attack!r}. Use PGD(random_start=True), or attack_loss='given'."
        )
