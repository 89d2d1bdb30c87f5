"""Carlini and Wagner's attack: the smallest L2 perturbation by an optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from keras_esq._checks import check_count, check_nonnegative, check_positive
from keras_esq.attacks.gradient import value_and_gradient
from keras_esq.attacks.logits import LogitsFn
from keras_esq.attacks.losses import margin
from keras_esq.attacks.minimal import MinimalAttack
from keras_esq.attacks.survivors import compact, flat_norm, open_batch, where_image, with_nan

# Adam's, as in the paper's code.
_BETA_1, _BETA_2, _TINY = 0.9, 0.999, 1e-8
# The largest |tanh|: its inverse must stay finite.
_INSIDE = 0.999999


@dataclass(frozen=True, kw_only=True, eq=False)
class CarliniWagner(MinimalAttack):
    """Minimizes ||x' - x||_2^2 + c * max(0, confidence - lead), x' = tanh in the box, for the smallest c that fools.

    The distance is measured in ranges of `bounds`, so that a c means the same for images in [0, 1] and in [0, 255].
    The lead is that of the largest wrong logit over the true one (targeted: of the target's over the others). For each
    sample c is found by bisection. Samples do not influence each other; one whose loss has stopped falling leaves the
    batch, which shrinks.

    Args:
        steps: steps of Adam for each c. Default 1000, enough on small images; the paper takes up to 10,000, [ESQ] 20.
        binary_search_steps: how many c are tried. Default 9, the paper's.
        initial_const: the first c; multiplied by 10 until it fools. Default 1e-3, the paper's.
        learning_rate: Adam's, in the space of atanh. Default 0.01, the paper's.
        confidence: the lead in logits that the result must have, >= 0. Default 0. Divided by `temperature`, if set, as
            logits are.
        abort_early: leave a sample when its loss fell by less than 0.01 % in a tenth of the steps. Default True.
        Others as `MinimalAttack`: eps=None ([ESQ] counts what stays within 1), temperature=None; and bounds, targeted,
            seed (which changes nothing here).

    Reference: Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", 2017 (arXiv:1608.04644).
    """

    steps: int = 1000
    binary_search_steps: int = 9
    initial_const: float = 1e-3
    learning_rate: float = 0.01
    confidence: float = 0.0
    abort_early: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("steps", self.steps)
        check_count("binary_search_steps", self.binary_search_steps)
        self._set("initial_const", check_positive("initial_const", self.initial_const))
        self._set("learning_rate", check_positive("learning_rate", self.learning_rate))
        self._set("confidence", check_nonnegative("confidence", self.confidence))
        if not isinstance(self.abort_early, bool):
            raise TypeError(f"Expected abort_early to be True or False. Received: {self.abort_early!r}.")

    def search(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `MinimalAttack.search`."""
        del seed  # nothing is random
        count = tf.shape(labels)

        def body(
            number: tf.Tensor, const: tf.Tensor, lower: tf.Tensor, upper: tf.Tensor, best: tf.Tensor, nearest: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            found, distance = self._minimize(model_fn, x, labels, const)
            better = distance < nearest
            best, nearest = where_image(better, found, best), tf.where(better, distance, nearest)
            success = tf.math.is_finite(distance)
            lower, upper = tf.where(success, lower, const), tf.where(success, const, upper)
            const = tf.where(tf.math.is_finite(upper), (lower + upper) / 2.0, const * 10.0)
            return number + 1, const, lower, upper, best, nearest

        infinite = tf.fill(count, float("inf"))
        first = (tf.constant(0), tf.fill(count, self.initial_const), tf.zeros(count), infinite, x, infinite)
        return tf.while_loop(
            lambda number, *_: number < self.binary_search_steps,
            body,
            first,
            maximum_iterations=self.binary_search_steps,
            parallel_iterations=1,
        )[4]

    def _minimize(
        self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor, const: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """For one c each: the nearest images (n, ...) that fool, and their distances (n,), infinite where none does."""
        low, high = self.bounds
        middle, half = (low + high) / 2.0, (high - low) / 2.0
        area = self.span() ** 2
        # The step between two looks at progress, and at who may leave.
        window = -(-self.steps // 10) if self.abort_early else self.steps

        def image(w: tf.Tensor) -> tf.Tensor:
            return middle + half * tf.tanh(w)

        def step(number: tf.Tensor, end: tf.Tensor, fixed: _Fixed, moving: _Moving) -> tuple[object, ...]:
            x, start, labels, const = fixed
            w, mean, square, _, best, nearest = moving

            def objective(logits: tf.Tensor) -> tf.Tensor:
                return const * tf.nn.relu(self.confidence - self._lead(labels, logits))

            x_adv = image(w)
            penalty, logits, gradient = value_and_gradient(model_fn, x_adv, objective)
            loss = tf.square(flat_norm(x_adv - image(start), "l2")) / area + penalty
            gradient += 2.0 * (x_adv - image(start)) / area
            gradient *= half * (1.0 - tf.square(tf.tanh(w)))
            number += 1
            power = tf.cast(number, tf.float32)
            mean = _BETA_1 * mean + (1.0 - _BETA_1) * gradient
            square = _BETA_2 * square + (1.0 - _BETA_2) * tf.square(gradient)
            correction = tf.sqrt(1.0 - _BETA_2**power) / (1.0 - _BETA_1**power)
            w -= self.learning_rate * correction * mean / (tf.sqrt(square) + _TINY)
            distance = flat_norm(x_adv - x, "l2")
            better = (self._lead(labels, logits) > self.confidence) & (distance < nearest)
            best, nearest = where_image(better, x_adv, best), tf.where(better, distance, nearest)
            return number, end, fixed, (w, mean, square, loss, best, nearest)

        def look(
            number: tf.Tensor,
            alive: tf.Tensor,
            fixed: _Fixed,
            moving: _Moving,
            before: tf.Tensor,
            result: tuple[tf.Tensor, tf.Tensor],
        ) -> tuple[object, ...]:
            end = tf.minimum(number + window, self.steps)
            number, _, fixed, moving = tf.while_loop(
                lambda number, end, *_: number < end, step, (number, end, fixed, moving), parallel_iterations=1
            )
            w, *_, loss, best, nearest = moving
            best, nearest = with_nan(w, best, nearest)
            result = (
                tf.tensor_scatter_nd_update(result[0], alive[:, None], best),
                tf.tensor_scatter_nd_update(result[1], alive[:, None], nearest),
            )
            state = (alive, fixed, moving, loss)
            rows = iter(compact(loss <= 0.9999 * before, tf.nest.flatten(state)))
            return number, *tf.nest.map_structure(lambda _: next(rows), state), result

        start = tf.atanh((x - middle) / half * _INSIDE)
        infinite = tf.fill(tf.shape(labels), float("inf"))
        state = (
            tf.constant(0),
            tf.range(tf.shape(labels)[0]),
            (x, start, labels, const),
            (start, tf.zeros_like(x), tf.zeros_like(x), infinite, x, infinite),
            infinite,
            (x, infinite),
        )
        *_, result = tf.while_loop(
            lambda number, alive, *_: (number < self.steps) & (tf.size(alive) > 0),
            look,
            state,
            shape_invariants=(tf.TensorShape([]), *tf.nest.map_structure(open_batch, state[1:])),
            parallel_iterations=1,
        )
        return result

    def _lead(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        lead = margin(labels, logits)
        return -lead if self.targeted else lead


# x, where it is in the space of atanh, labels, c; and w, Adam's moments, the loss, the best image and its distance.
_Fixed = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]
_Moving = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]
