"""Pairing: the objective of [ESQ]."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from keras_esq._checks import check_fraction
from keras_esq._keras import keras
from keras_esq.training.objectives.base import Objective, check_choice
from keras_esq.training.pairing import LOGITS, LogitPairing, pairing_distance
from keras_esq.training.step import Result, Step

_BRANCHES = ("both", "clean", "adversarial")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairing(Objective):
    """(1 - share) * loss(x) + share * loss(x_adv) + sum of the model's `pairing` terms. Alias "pairing".

    loss is the compiled one; the terms are those of `LogitPairing` and `ActivationPairing`, lambda * mean distance.

    Args:
        adversarial_share: share of the compiled loss that is taken on x_adv, in [0, 1]. Default 0, as in [ESQ]; 0.5 is
            that of Adversarial Logit Pairing.
        branch: through which branch the gradient of the pairing terms runs: "both"; "adversarial", so that x_adv is
            drawn to where x is, which stays; or "clean". Default "both".

    Raises:
        TypeError, ValueError: for a share that is no number in [0, 1], or an unknown branch.

    Reference: [ESQ]; Kannan et al., "Adversarial Logit Pairing", 2018 (arXiv:1803.06373).
    """

    pairs: ClassVar[bool] = True

    adversarial_share: float = 0.0
    branch: str = "both"

    def __post_init__(self) -> None:
        self._set("adversarial_share", check_fraction("adversarial_share", self.adversarial_share))
        check_choice("branch", self.branch, _BRANCHES)

    def loss(self, step: Step, x_adv: Any) -> Result:
        """See `Objective.loss`."""
        both = step.forward(tf.concat([step.x, x_adv], axis=0))
        clean, adv = tf.split(both.outputs, 2)
        terms = step.ramped(self.terms(step, {**both.taps, LOGITS: both.logits}))
        share = self.adversarial_share
        if share in (0.0, 1.0):
            loss = step.compiled_loss(adv if share else clean, terms)
        else:
            # Keras divides by the number of samples, here 2 n, unless the loss is one that sums.
            sums = getattr(step.model.loss, "reduction", None) == keras.losses.Reduction.SUM
            weights = [step.weighted(part * (1 if sums else 2)) for part in (1 - share, share)]
            twice = tf.concat([step.y, step.y], axis=0)
            loss = step.compiled_loss(both.outputs, terms, y=twice, sample_weight=tf.concat(weights, axis=0))
        return Result(loss, step.x, clean, terms, tf.split(both.logits, 2)[1])

    def terms(self, step: Step, activations: dict[str, Any]) -> Any:
        """Sum over pairings and layers of lambda * mean distance, of {layer: activations of x and x_adv (2n, ...)}."""
        total = tf.constant(0.0)
        for pairing in step.model.pairing:
            for name, weight in pairing.weights.items():
                clean, adv = tf.split(activations[name], 2)
                if self.branch == "adversarial":
                    clean = tf.stop_gradient(clean)
                elif self.branch == "clean":
                    adv = tf.stop_gradient(adv)
                total += weight * step.mean(pairing_distance(clean, adv, pairing.distance))
        return total


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialPairing(Pairing):
    """`Pairing` with all of the loss on x_adv, what `ErrorSilencedModel` does by default. Alias "adversarial_pairing".

    With 0.1 x squared L2 of the logits, if the model is given no pairing of its own. Where the network has capacity to
    spare it is more robust than adversarial cross-entropy alone, elsewhere equal; [ESQ]'s own loss on x alone, and half
    of it (`adversarial_share=0.5`, Adversarial Logit Pairing's), keep more clean and less robust accuracy: see
    benchmarks/results.md.

    Reference: Kannan et al., "Adversarial Logit Pairing", 2018 (arXiv:1803.06373), there with targeted attacks on
    float networks.
    """

    default_pairing: ClassVar[LogitPairing] = LogitPairing(weight=0.1)

    adversarial_share: float = 1.0
