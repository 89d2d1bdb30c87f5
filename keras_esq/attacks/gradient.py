"""What gradient attacks inside an eps ball share: the gradient, the projection, and the loop over steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf
from cleverhans.tf2.utils import clip_eta, compute_gradient, optimize_linear

from keras_esq._checks import check_count
from keras_esq.attacks.base import Attack, Scalar
from keras_esq.attacks.logits import LogitsFn
from keras_esq.attacks.losses import AttackLoss, get_loss
from keras_esq.attacks.norms import ORDER, Norm, get_norm


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientAttack(Attack):
    """An attack that climbs the gradient of a loss inside the ball of radius `eps`.

    Args:
        eps: radius of the ball in input units; a scalar tensor or variable may change between calls. Default 8/255,
            the paper's training attack.
        norm: "linf" (or np.inf) or "l2" (or 2). Default "linf", the paper's.
        loss: "ce", "margin", "dlr" or a function (labels, logits) -> (n,) that grows as the sample gets more wrong.
            Default "ce", the paper's.
    """

    eps: Scalar = 8 / 255
    norm: Norm = "linf"
    loss: str | AttackLoss = "ce"

    traced_fields: ClassVar[tuple[str, ...]] = ("eps",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("norm", get_norm(self.norm))
        get_loss(self.loss)

    def objective(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """What the attack maximizes, (n,): the loss of the true class, or minus the loss of the target."""
        loss = get_loss(self.loss)(labels, logits)
        return -loss if self.targeted else loss

    def fooled(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Where the attack has what it wants, (n,) bool: another class than the true one, or the target."""
        predicted = tf.argmax(logits, axis=1, output_type=labels.dtype)
        return tf.equal(predicted, labels) if self.targeted else tf.not_equal(predicted, labels)

    def gradient(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Gradient of each sample's objective with respect to its image, (n, ...)."""
        # The undecorated function: the decorated one would trace anew for every model and warn about it.
        gradient = compute_gradient.python_function(model_fn, get_loss(self.loss), x, labels, self.targeted)
        if gradient is None:
            raise ValueError(
                "Expected a model whose loss can be differentiated by its input. Received one without a gradient "
                "(rounding, argmax or integer casts on the way). Use a straight-through layer or a black-box attack."
            )
        return gradient

    def ascend(self, gradient: tf.Tensor, length: Scalar) -> tf.Tensor:
        """The step of the given length that gains most if the loss were linear, (n, ...)."""
        return optimize_linear(gradient, length, ORDER[self.norm])

    def project(self, x: tf.Tensor, x_adv: tf.Tensor) -> tf.Tensor:
        """`x_adv` moved into the eps ball around `x`, then into the box."""
        eps = tf.cast(self.eps, tf.float32)
        return tf.clip_by_value(x + clip_eta(x_adv - x, ORDER[self.norm], eps), *self.bounds)


@dataclass(frozen=True, kw_only=True, eq=False)
class IterativeAttack(GradientAttack):
    """A gradient attack of many steps: `x_adv <- project(move(x_adv, direction))`.

    A subclass overrides `start` or `direction`. The loop is a `tf.while_loop`, so that graph size, tracing time and
    memory don't depend on the number of steps.

    Args:
        step_size: length of a step in input units. Default 2/255, the paper's training attack.
        steps: number of steps. Default 10, the paper's training attack.
    """

    step_size: Scalar = 2 / 255
    steps: int = 10

    traced_fields: ClassVar[tuple[str, ...]] = ("eps", "step_size")
    # Whether `direction` uses its memory; if not, none is carried through the loop.
    has_memory: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("steps", self.steps)

    def start(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The first point. Default: the image itself."""
        return x

    def direction(self, gradient: tf.Tensor, memory: tf.Tensor) -> tf.Tensor:
        """What to climb along, from the gradient and the direction before (zeros at first). Default: the gradient."""
        return gradient

    def move(self, x_adv: tf.Tensor, direction: tf.Tensor) -> tf.Tensor:
        """One step, before the projection. The box is applied first, as cleverhans does it in PGD."""
        step_size = tf.cast(self.step_size, tf.float32)
        return tf.clip_by_value(x_adv + self.ascend(direction, step_size), *self.bounds)

    def generate(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `Attack.generate`."""

        def body(step: tf.Tensor, x_adv: tf.Tensor, memory: tf.Tensor) -> tuple[tf.Tensor, ...]:
            direction = self.direction(self.gradient(model_fn, x_adv, labels), memory)
            x_adv = self.project(x, self.move(x_adv, direction))
            return step + 1, x_adv, direction if self.has_memory else memory

        first = (tf.constant(0), self.start(x, seed), tf.zeros_like(x) if self.has_memory else tf.zeros(0))
        return tf.while_loop(
            lambda step, *_: step < self.steps, body, first, maximum_iterations=self.steps, parallel_iterations=1
        )[1]
