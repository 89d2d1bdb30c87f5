"""MIM: steps with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from keras_esq._checks import check_nonnegative
from keras_esq.attacks.gradient import IterativeAttack


@dataclass(frozen=True, kw_only=True, eq=False)
class MIM(IterativeAttack):
    """Momentum iterative method: climbs along m <- decay * m + gradient / mean |gradient|; transfers well.

    Args:
        decay: share of the momentum kept at each step, >= 0. Default 1.0, the reference's.
        Others as `IterativeAttack`: eps=8/255, step_size=2/255, steps=10, norm="linf", loss="ce"; and bounds, targeted,
            seed.

    Reference: Dong et al., "Boosting Adversarial Attacks with Momentum", 2018.
    """

    decay: float = 1.0

    has_memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("decay", check_nonnegative("decay", self.decay))

    def direction(self, gradient: tf.Tensor, memory: tf.Tensor) -> tf.Tensor:
        """The momentum. The gradient is divided by its mean magnitude (a zero gradient stays zero)."""
        axes = list(range(1, len(gradient.shape)))
        # In two steps, as in `unit`, and without cleverhans' 1e-12: a small gradient counts as much as any.
        for magnitude in (tf.reduce_max, tf.reduce_mean):
            gradient = tf.math.divide_no_nan(gradient, magnitude(tf.abs(gradient), axes, keepdims=True))
        return self.decay * memory + gradient

    def move(self, x_adv: tf.Tensor, direction: tf.Tensor) -> tf.Tensor:
        """One step; the box only after the projection, as cleverhans does it here."""
        return x_adv + self.ascend(direction, tf.cast(self.step_size, tf.float32))
