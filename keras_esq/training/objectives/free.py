"""Free adversarial training."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from keras_esq._checks import check_count
from keras_esq.attacks.gradient import GradientAttack
from keras_esq.attacks.norms import random_in_ball
from keras_esq.training.objectives.base import Objective
from keras_esq.training.step import Result, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Free(Objective):
    """The compiled loss on x + delta, with each batch replayed; one backward pass updates weights and delta. "free".

    Of the model's attack only eps, norm and bounds are used: after each replay delta moves by eps along the gradient of
    the loss and is projected into the ball. The cost is that of vanilla training for as many epochs times `replays`, so
    divide the epochs by it. Each replay is an update of its own, with a partition of its own, and counts as a step of
    the optimizer and its schedule. The logs are means over the replays, on x + delta.

    delta begins at a random point of the ball in each batch, by the training's own random numbers, so that a training
    that was killed goes on to the same weights; in the paper it is kept from one batch to the next.

    Args:
        replays: how often each batch is used, the paper's m. Default 4; the paper has 4 to 10, 8 being best.

    Raises:
        TypeError, ValueError: for anything but a whole number >= 1; when training begins, for an attack without a ball.

    Reference: Shafahi et al., "Adversarial Training for Free!", 2019 (arXiv:1904.12843).
    """

    regularizes: ClassVar[bool] = False
    perturbs_weights: ClassVar[bool] = False

    replays: int = 4

    def __post_init__(self) -> None:
        self._set("replays", check_count("replays", self.replays))

    def ready(self, attack: Any) -> None:
        """See `Objective.ready`."""
        if not isinstance(attack, GradientAttack):
            raise ValueError(
                f"Expected an attack with an eps ball, such as PGD(eps=8/255), for free training. Received {attack!r}."
            )

    def loss(self, step: Step, x_adv: Any) -> Result:
        """See `Objective.loss`."""
        adv = step.forward(x_adv)
        loss = step.model.compute_loss(x_adv, step.y, adv.outputs, step.sample_weight)
        return Result(loss, x_adv, adv.outputs, adv_logits=adv.logits)

    def train(self, step: Step) -> dict[str, Any]:
        """See `Objective.train`."""
        attack, eps = step.attack, tf.cast(step.attack.eps, tf.float32)
        x_adv = attack.project(step.x, step.x + random_in_ball(step.x, eps, attack.norm, step.seed(1)))
        values: dict[str, Any] = {}
        for replay in range(self.replays):
            with step.partition(replay), tf.GradientTape() as tape:
                tape.watch(x_adv)
                result = self.loss(step, x_adv)
            gradient = step.update_with_gradient(result.loss, tape, x_adv)
            values = step.logs(result)
            x_adv = attack.project(step.x, x_adv + attack.ascend(gradient, eps))
        return values
