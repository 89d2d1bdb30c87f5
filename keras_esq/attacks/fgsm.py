"""FGSM: one step, from the image or from a random start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_esq.attacks.base import Scalar
from keras_esq.attacks.gradient import GradientAttack
from keras_esq.attacks.logits import LogitsFn
from keras_esq.attacks.pgd import PGD


@dataclass(frozen=True, kw_only=True, eq=False)
class FGSM(GradientAttack):
    """Fast gradient sign method: x_adv = clip(x + eps * sign(gradient)); for L2 eps * gradient / ||gradient||_2.

    Training on it fails where `fast_fgsm`, from a random start, does not.

    Args: as `GradientAttack`: eps=8/255, norm="linf", loss="ce"; and bounds, targeted, seed.

    Reference: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", 2015.
    """

    def generate(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `Attack.generate`."""
        return x + self.ascend(self.gradient(model_fn, x, labels), tf.cast(self.eps, tf.float32))


def fast_fgsm(eps: Scalar = 8 / 255, *, step_size: Scalar | None = None, **settings: Any) -> PGD:
    """FGSM from a random start, the training attack of fast adversarial training: PGD of one long step.

    For two gradients a step (attack and update) in place of PGD-10's eleven. Watch `val_adversarial_accuracy` under
    PGD: longer steps or trainings can end in "catastrophic overfitting", where it falls to 0 within an epoch.

        esq.ErrorSilencedModel(low_bit, attack=fast_fgsm(8 / 255), objective="adversarial")

    Args:
        eps: radius of the ball in input units. Default 8/255.
        step_size: default 1.25 * eps, the paper's.
        settings: others of `PGD`: norm, loss, bounds, seed.

    Raises:
        TypeError, ValueError: as `PGD`.

    Reference: Wong et al., "Fast is better than free: Revisiting adversarial training", 2020 (arXiv:2001.03994).
    """
    return PGD(eps=eps, step_size=1.25 * eps if step_size is None else step_size, steps=1, **settings)
