"""DDN: direction and length of the perturbation, decoupled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

from keras_esq._checks import check_count, check_fraction, check_positive
from keras_esq.attacks.gradient import value_and_gradient, with_even_gradients
from keras_esq.attacks.logits import LogitsFn
from keras_esq.attacks.losses import cross_entropy
from keras_esq.attacks.minimal import MinimalAttack
from keras_esq.attacks.norms import unit
from keras_esq.attacks.survivors import flat_norm, per_image, where_image, with_nan


@dataclass(frozen=True, kw_only=True, eq=False)
class DDN(MinimalAttack):
    """Decoupled direction and norm: the smallest L2 perturbation by a walk on a sphere that shrinks while it fools.

    Each step moves along the gradient of the cross-entropy, then sets the perturbation's length: (1 - gamma) times the
    last one where the image fools, else (1 + gamma) times.

    Args:
        steps: number of gradients. Default 100, the paper's and [ESQ]'s.
        gamma: rate at which the length changes, in (0, 1). Default 0.05, the paper's.
        init_eps: first length of the perturbation. Default None: 1.0, the paper's, times the range of `bounds`.
        step_size: first length of a step; falls to 1 % of it by a cosine. Default None: 1.0 times the range.
        Others as `MinimalAttack`: eps=None ([ESQ] counts what stays within 1), temperature=None; and bounds, targeted,
            seed.

    Reference: Rony et al., "Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and
    Defenses", 2019 (arXiv:1811.09600).
    """

    steps: int = 100
    gamma: float = 0.05
    init_eps: float | None = None
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("steps", self.steps)
        self._set("gamma", check_positive("gamma", check_fraction("gamma", self.gamma)))
        for name in ("init_eps", "step_size"):
            if getattr(self, name) is not None:
                self._set(name, check_positive(name, getattr(self, name)))

    def search(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `MinimalAttack.search`."""
        low, high = self.bounds
        model_fn = with_even_gradients(model_fn)
        first_step = self.span() if self.step_size is None else self.step_size
        init_eps = self.span() if self.init_eps is None else self.init_eps
        sign = -1.0 if self.targeted else 1.0
        # No image of the box is farther away.
        farthest = flat_norm(tf.maximum(x - low, high - x), "l2")

        def body(
            number: tf.Tensor, x_adv: tf.Tensor, length: tf.Tensor, best: tf.Tensor, nearest: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            _, logits, gradient = value_and_gradient(
                model_fn, x_adv, lambda logits: sign * cross_entropy(labels, logits)
            )
            fooled = self.fooled(labels, logits)
            distance = flat_norm(x_adv - x, "l2")
            better = fooled & (distance < nearest)
            best, nearest = where_image(better, x_adv, best), tf.where(better, distance, nearest)
            # Where the gradient vanishes any direction is as good; standing still would be the worst.
            usable = tf.not_equal(flat_norm(gradient, "linf"), 0.0)
            gradient = tf.cond(
                tf.reduce_all(usable),
                lambda: gradient,
                lambda: where_image(usable, gradient, _noise(x, tf.random.fold_in(seed, number))),
            )
            share = tf.cast(number, tf.float32) / self.steps
            step_size = first_step * (0.01 + 0.99 * (1.0 + tf.cos(math.pi * share)) / 2.0)
            offset = x_adv - x + step_size * unit(gradient)
            length = tf.minimum(length * tf.where(fooled, 1.0 - self.gamma, 1.0 + self.gamma), farthest)
            x_adv = tf.clip_by_value(x + per_image(length, x) * unit(offset), low, high)
            return number + 1, x_adv, length, best, nearest

        lengths = tf.fill(tf.shape(labels), init_eps)
        _, x_adv, _, best, nearest = tf.while_loop(
            lambda number, *_: number < self.steps,
            body,
            (tf.constant(0), x, tf.cast(lengths, tf.float32), x, tf.fill(tf.shape(labels), float("inf"))),
            maximum_iterations=self.steps,
            parallel_iterations=1,
        )
        return with_nan(x_adv, best, nearest)[0]


def _noise(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_normal(tf.shape(x), seed)
