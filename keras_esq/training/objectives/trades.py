"""TRADES."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from keras_esq._checks import check_nonnegative
from keras_esq.attacks.logits import logits_fn
from keras_esq.training.objectives.base import Objective, check_choice
from keras_esq.training.objectives.divergence import check_climbing, climbing, kl_divergence
from keras_esq.training.step import Result, Step

ATTACK_LOSSES = ("given", "kl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trades(Objective):
    """loss(x) + beta * mean KL(p(x) || p(x_adv)). Alias "trades".

    loss is the compiled one, p the network's class probabilities; the gradient runs through both. x and x_adv pass the
    network together, so that BatchNormalization sees both (the authors' code passes them one after the other).

    Args:
        beta: weight of the divergence, >= 0; the paper's 1 / lambda. Default 6, the paper's for CIFAR-10.
        attack_loss: what the training attack climbs: "given", its own loss, or "kl", the divergence, as in the paper,
            for which one forward pass more is made. Default "given".

    Raises:
        TypeError, ValueError: for a beta that is no number >= 0 or an unknown attack_loss; when training begins, for
            "kl" with an attack that has no gradient or no random start.

    Reference: Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", 2019
    (arXiv:1901.08573).
    """

    needs_classes: ClassVar[bool] = True

    beta: float = 6.0
    attack_loss: str = "given"

    def __post_init__(self) -> None:
        self._set("beta", check_nonnegative("beta", self.beta))
        check_choice("attack_loss", self.attack_loss, ATTACK_LOSSES)

    def ready(self, attack: Any) -> None:
        """See `Objective.ready`."""
        if self.attack_loss == "kl":
            check_climbing(attack, starts_at_random=True)

    def perturb(self, step: Step) -> Any:
        """See `Objective.perturb`."""
        if self.attack_loss == "given":
            return step.perturb()
        return step.perturb(climbing(step.attack, logits_fn(step.model.network)(step.x)))

    def loss(self, step: Step, x_adv: Any) -> Result:
        """See `Objective.loss`."""
        clean, adv = step.forward_pair(x_adv)
        term = step.ramped(self.beta * step.mean(kl_divergence(clean.class_logits, adv.class_logits)))
        return Result(step.compiled_loss(clean.outputs, term), step.x, clean.outputs, term, adv.logits)
