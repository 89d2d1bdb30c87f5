"""What attacks share that look for the nearest adversarial image instead of the worst one in a ball."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf
from cleverhans.tf2.utils import clip_eta

from keras_esq.attacks.base import Scalar
from keras_esq.attacks.gradient import WhiteBoxAttack
from keras_esq.attacks.logits import LogitsFn
from keras_esq.attacks.norms import ORDER, Norm


@dataclass(frozen=True, kw_only=True, eq=False)
class MinimalAttack(WhiteBoxAttack):
    """An attack that looks for the smallest perturbation; its result is compared by distance or within a radius.

    A sample for which nothing was found is returned as it is. A subclass writes `search`.

    Args:
        eps: radius in input units within which the result must stay; a scalar tensor or variable may change between
            calls. What was found farther away is drawn back into the ball, and most likely fools nobody there.
            Default None: no limit.
        Others: temperature as `WhiteBoxAttack`; bounds, targeted, seed as `Attack`.
    """

    eps: Scalar | None = None

    traced_fields: ClassVar[tuple[str, ...]] = ("eps",)

    @abc.abstractmethod
    def search(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The nearest adversarial images found, (n, ...), or `x` where there are none; arguments as of `generate`."""

    def measure(self) -> Norm:
        """The norm in which "nearest" is meant."""
        return "l2"

    def generate(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `Attack.generate`."""
        nearest = tf.clip_by_value(self.search(model_fn, x, labels, seed), *self.bounds)
        if self.eps is None:
            return nearest
        return x + clip_eta(nearest - x, ORDER[self.measure()], tf.cast(self.eps, tf.float32))

    def span(self) -> float:
        """Length of the range of pixel values: what published defaults, made for [0, 1], are multiplied by."""
        return self.bounds[1] - self.bounds[0]
