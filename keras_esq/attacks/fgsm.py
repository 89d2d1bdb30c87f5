"""FGSM: one step."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from keras_esq.attacks.gradient import GradientAttack
from keras_esq.attacks.logits import LogitsFn


@dataclass(frozen=True, kw_only=True, eq=False)
class FGSM(GradientAttack):
    """Fast gradient sign method: x_adv = clip(x + eps * sign(gradient)); for L2 eps * gradient / ||gradient||_2.

    Args: as `GradientAttack`: eps=8/255, norm="linf", loss="ce"; and bounds, targeted, seed.

    Reference: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", 2015.
    """

    def generate(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `Attack.generate`."""
        return x + self.ascend(self.gradient(model_fn, x, labels), tf.cast(self.eps, tf.float32))
