"""The objectives without a regularizer."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from keras_esq.training.objectives.base import Objective
from keras_esq.training.step import Result, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Natural(Objective):
    """The compiled loss on x: vanilla training. Alias "natural"."""

    attacks: ClassVar[bool] = False
    regularizes: ClassVar[bool] = False

    def loss(self, step: Step, x_adv: Any) -> Result:
        """See `Objective.loss`."""
        outputs = step.forward(step.x).outputs
        loss = step.model.compute_loss(step.x, step.y, outputs, step.sample_weight)
        return Result(loss, step.x, outputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversarial(Objective):
    """The compiled loss on x_adv: adversarial training. Alias "adversarial".

    There is no clean forward pass: loss and metrics of the training logs are those on x_adv.

    Reference: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018.
    """

    regularizes: ClassVar[bool] = False

    def loss(self, step: Step, x_adv: Any) -> Result:
        """See `Objective.loss`."""
        adv = step.forward(x_adv)
        loss = step.model.compute_loss(x_adv, step.y, adv.outputs, step.sample_weight)
        return Result(loss, x_adv, adv.outputs, adv_logits=adv.logits)
