"""What gradient attacks inside an eps ball share: the gradient, the projection, and the loop over steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf
from cleverhans.tf2.utils import clip_eta, compute_gradient, optimize_linear

from keras_esq._checks import check_count
from keras_esq.attacks.base import Attack, Scalar
from keras_esq.attacks.logits import LogitsFn
from keras_esq.attacks.losses import AttackLoss, get_loss
from keras_esq.attacks.norms import ORDER, Norm, get_norm, unit
from keras_esq.attacks.temperature import Temperature, check_temperature, tempered

NO_GRADIENT = (
    "Expected a model whose loss can be differentiated by its input. Received one without a gradient "
    "(rounding, argmax or integer casts on the way). Use a straight-through layer or a black-box attack."
)


def with_even_gradients(model_fn: LogitsFn) -> LogitsFn:
    """`model_fn` with a gradient that is 1 to 2 large at each sample's logits, for attacks that take its direction.

    In float16, of which networks in mixed precision are made, the cross-entropy's gradient by a lead of 17 is 0.

    Args:
        model_fn: x (n, ...) -> class logits (n, k), float32.
    """

    @tf.custom_gradient
    def evened(logits: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            largest = tf.reduce_max(tf.abs(upstream), axis=1, keepdims=True)
            # Its exponent bits alone: a power of two, so that no digit of the gradient changes.
            power = tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(largest, tf.int32), 0x7F800000), tf.float32)
            return tf.where(power > 0, upstream / power, upstream)

        return tf.identity(logits), backward

    return lambda x: evened(model_fn(x))


def value_and_gradient(
    model_fn: LogitsFn, x: tf.Tensor, objective: Callable[[tf.Tensor], tf.Tensor], samples: int = 1
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Objective (n,), logits (n, k) and the objective's gradient (n, ...) at the images `x` (n, ...).

    Args:
        model_fn: x (n, ...) -> class logits (n, k).
        x: images (n, ...).
        objective: logits (n, k) -> (n,).
        samples: all three are means over so many forward passes, for networks that are random in inference.

    Raises:
        ValueError: if there is no gradient.
    """

    def once() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = model_fn(x)
            value = objective(logits)
        gradient = tape.gradient(value, x)
        if gradient is None:
            raise ValueError(NO_GRADIENT)
        return value, logits, gradient

    if samples == 1:
        return once()

    def body(number: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return number + 1, *(total + one for total, one in zip(sums, once(), strict=True))

    _, *sums = tf.while_loop(
        lambda number, *_: number < samples, body, (tf.constant(1), *once()), parallel_iterations=1
    )
    value, logits, gradient = (total / samples for total in sums)
    return value, logits, gradient


@dataclass(frozen=True, kw_only=True, eq=False)
class WhiteBoxAttack(Attack):
    """An attack that sees the network.

    Args:
        temperature: the logits are divided by it inside the attack (and nowhere else): a number > 0, or "auto", which
            makes their median lead about 1 in each batch. Default None, as published. Needed where logits are so
            large that gradients vanish, which `masking_audit` tells.
    """

    temperature: Temperature = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("temperature", check_temperature(self.temperature))

    def view(self, model_fn: LogitsFn, x: tf.Tensor) -> LogitsFn:
        """See `Attack.view`: the logits over the temperature."""
        return tempered(model_fn, x, self.temperature)


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientAttack(WhiteBoxAttack):
    """An attack that climbs the gradient of a loss inside the ball of radius `eps`.

    Args:
        eps: radius of the ball in input units; a scalar tensor or variable may change between calls. Default 8/255,
            the paper's training attack.
        norm: "linf" (or np.inf) or "l2" (or 2). Default "linf", the paper's.
        loss: "ce", "margin", "dlr" or a function (labels, logits) -> (n,) that grows as the sample gets more wrong.
            Default "ce", the paper's.
        Others: temperature as `WhiteBoxAttack`; bounds, targeted, seed as `Attack`.
    """

    eps: Scalar = 8 / 255
    norm: Norm = "linf"
    loss: str | AttackLoss = "ce"

    traced_fields: ClassVar[tuple[str, ...]] = ("eps",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("norm", get_norm(self.norm))
        self._check_loss()

    def _check_loss(self) -> None:
        get_loss(self.loss)

    def objective(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """What the attack maximizes, (n,): the loss of the true class, or minus the loss of the target."""
        loss = get_loss(self.loss)(labels, logits)
        return -loss if self.targeted else loss

    def gradient(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Gradient of each sample's objective with respect to its image, (n, ...)."""
        # The undecorated function: the decorated one would trace anew for every model and warn about it.
        model_fn = with_even_gradients(model_fn)
        gradient = compute_gradient.python_function(model_fn, get_loss(self.loss), x, labels, self.targeted)
        if gradient is None:
            raise ValueError(NO_GRADIENT)
        return gradient

    def ascend(self, gradient: tf.Tensor, length: Scalar) -> tf.Tensor:
        """The step of the given length that gains most if the loss were linear, (n, ...)."""
        # cleverhans shortens L2 steps along gradients shorter than 1e-6, which are those of confident networks.
        return length * unit(gradient) if self.norm == "l2" else optimize_linear(gradient, length, ORDER[self.norm])

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
