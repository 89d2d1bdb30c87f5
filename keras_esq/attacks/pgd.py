"""PGD: random starts and restarts."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from keras_esq._checks import check_count
from keras_esq.attacks.gradient import IterativeAttack
from keras_esq.attacks.logits import LogitsFn
from keras_esq.attacks.norms import random_in_ball


@dataclass(frozen=True, kw_only=True, eq=False)
class PGD(IterativeAttack):
    """Projected gradient descent: FGSM steps projected into the eps ball, from a random point of it.

    Args:
        random_start: begin at a uniformly random point of the ball instead of the image. Default True, the paper's.
        restarts: number of runs; of each sample the worst is kept: a fooled one before others, then the highest
            loss. Default 1, for training; an evaluation wants 5 or more.
        Others as `IterativeAttack`: eps=8/255, step_size=2/255, steps=10, norm="linf", loss="ce"; and bounds, targeted,
            seed.

    Raises:
        ValueError: also for several restarts without a random start, which would all be the same.

    Reference: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018.
    """

    random_start: bool = True
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("restarts", self.restarts)
        if not isinstance(self.random_start, bool):
            raise TypeError(f"Expected random_start to be True or False. Received: {self.random_start!r}.")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                f"Expected random_start=True with several restarts. Received restarts={self.restarts} from one and the "
                "same point. Set random_start=True or restarts=1."
            )

    def start(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """A random point of the ball and the box, or the image."""
        if not self.random_start:
            return x
        return self.project(x, x + random_in_ball(x, tf.cast(self.eps, tf.float32), self.norm, seed))

    def generate(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `Attack.generate`."""
        # The first run's seed does not depend on the number of restarts, so more of them are never weaker.
        if self.restarts == 1:
            return super().generate(model_fn, x, labels, tf.random.fold_in(seed, 0))

        def body(
            run: tf.Tensor, best: tf.Tensor, best_fooled: tf.Tensor, best_loss: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            x_adv = super(PGD, self).generate(model_fn, x, labels, tf.random.fold_in(seed, run))
            logits = model_fn(x_adv)
            fooled, loss = self.fooled(labels, logits), self.objective(labels, logits)
            better = (fooled & ~best_fooled) | (tf.equal(fooled, best_fooled) & (loss > best_loss))
            better |= tf.math.is_nan(loss)  # kept, so that it is seen
            image_mask = tf.reshape(better, [-1] + [1] * (len(x.shape) - 1))
            return (
                run + 1,
                tf.where(image_mask, x_adv, best),
                tf.where(better, fooled, best_fooled),
                tf.where(better, loss, best_loss),
            )

        nothing = (tf.zeros_like(labels, tf.bool), tf.fill(tf.shape(labels), -float("inf")))
        return tf.while_loop(
            lambda run, *_: run < self.restarts,
            body,
            (tf.constant(0), x, *nothing),
            maximum_iterations=self.restarts,
            parallel_iterations=1,
        )[1]
