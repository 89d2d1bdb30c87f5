"""APGD: PGD that sets its own step sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from keras_esq._checks import check_count, check_fraction
from keras_esq.attacks.gradient import GradientAttack, value_and_gradient, with_even_gradients
from keras_esq.attacks.logits import LogitsFn
from keras_esq.attacks.losses import margin
from keras_esq.attacks.survivors import (
    attack_survivors,
    compact,
    flat_norm,
    open_batch,
    per_image,
    ranked_classes,
    where_image,
)

# Weight of the new step against the former one; the paper's alpha.
MOMENTUM = 0.75
_BY_TARGET = "targeted-dlr"

Objective = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class APGD(GradientAttack):
    """Auto-PGD: gradient ascent with momentum from a random point; halves the step where progress stops.

    The first step is 2 * eps. At checkpoints that come closer and closer, the step of a sample is halved, and the
    search goes back to its best point, if the loss rose in at most a share `rho` of the steps since the last one, or if
    the step was not halved there and the best loss is the same. A sample is left alone once it is fooled, from the next
    checkpoint on; so the batch shrinks.

    Args:
        loss: "ce", "dlr", "margin", a function as for `GradientAttack`, or "targeted-dlr": of each sample the
            `target_classes` most likely wrong classes are tried one after the other. Default "ce".
        steps: number of steps. Default 100, the paper's.
        restarts: runs from other random points, for samples not yet fooled. Default 1, as in AutoAttack.
        rho: share of rising steps below which the step is halved, in [0, 1]. Default 0.75, the paper's.
        target_classes: how many classes "targeted-dlr" tries; all wrong ones if there are fewer. Default 9, as in
            AutoAttack.
        gradient_samples: forward passes averaged per gradient, for networks that are random in inference. Default 1;
            AutoAttack "rand" takes 20.
        Others as `GradientAttack`: eps=8/255, norm="linf", temperature=None; and bounds, targeted, seed.

    Raises:
        ValueError: also at the call, for "dlr" with fewer than 3 classes and "targeted-dlr" with fewer than 4.

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", 2020 (arXiv:2003.01690), algorithm 1 and equations 6 and 7.
    """

    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    target_classes: int = 9
    gradient_samples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "restarts", "target_classes", "gradient_samples"):
            check_count(name, getattr(self, name))
        self._set("rho", check_fraction("rho", self.rho))

    def _check_loss(self) -> None:
        if self.loss != _BY_TARGET:
            super()._check_loss()

    def start(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """A random point on the surface of the ball, clipped to the box."""
        if self.norm == "linf":
            offset = tf.random.stateless_uniform(tf.shape(x), seed, -1.0, 1.0)
        else:
            offset = tf.random.stateless_normal(tf.shape(x), seed)
        length = per_image(flat_norm(offset, self.norm), x)
        return self.project(x, x + tf.cast(self.eps, tf.float32) * tf.math.divide_no_nan(offset, length))

    def generate(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `Attack.generate`."""
        attempts, objective, targets = self.restarts, self._objective, labels[:, None]
        if self.loss == _BY_TARGET:
            logits = model_fn(x)
            if logits.shape[-1] < 4:
                raise ValueError(
                    f"Expected four or more classes for loss='targeted-dlr'. Received {logits.shape[-1]}. "
                    "Use loss='dlr' with three, 'margin' or 'ce' with two."
                )
            objective = targeted_dlr
            if not self.targeted:
                targets = ranked_classes(labels, logits, min(self.target_classes, logits.shape[-1] - 1))
                attempts *= targets.shape[1]

        def attempt(
            number: tf.Tensor, rank: tf.Tensor, x: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            target = tf.gather(targets, number % targets.shape[1], axis=1)
            return self.climb(model_fn, objective, x, labels, target, tf.random.fold_in(seed, number))

        return attack_survivors(attempt, attempts, x, labels, targets)

    def climb(
        self,
        model_fn: LogitsFn,
        objective: Objective,
        x: tf.Tensor,
        labels: tf.Tensor,
        target: tf.Tensor,
        seed: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """One run: x_adv (n, ...), its loss (n,) (infinite where fooled), and where it is fooled (n,)."""
        lengths = tf.constant(windows(self.steps))
        if self.gradient_samples == 1:  # a mean of several goes by their lengths too
            model_fn = with_even_gradients(model_fn)

        def evaluate(x_adv: tf.Tensor, labels: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, ...]:
            loss, logits, gradient = value_and_gradient(
                model_fn, x_adv, lambda logits: objective(labels, target, logits), self.gradient_samples
            )
            return loss, gradient, self.fooled(labels, logits)

        def project(x: tf.Tensor, box: tuple[tf.Tensor, ...], x_adv: tf.Tensor) -> tf.Tensor:
            return tf.clip_by_value(x_adv, *box) if box else self.project(x, x_adv)

        def step(
            number: tf.Tensor,
            first: tf.Tensor,
            fixed: _Fixed,
            now: _Point,
            best: _Best,
            rises: tf.Tensor,
        ) -> tuple[object, ...]:
            x, box, labels, target, step_size = fixed
            x_adv, before, loss, gradient = now
            # No momentum in the very first step.
            share = tf.where(first & (number == 0), 1.0, MOMENTUM)
            moved = project(x, box, x_adv + self.ascend(gradient, per_image(step_size, x)))
            moved = project(x, box, x_adv + share * (moved - x_adv) + (1.0 - share) * (x_adv - before))
            new_loss, gradient, fooled = evaluate(moved, labels, target)
            x_best, loss_best, gradient_best, x_fooled, is_fooled = best
            better = (new_loss > loss_best) | tf.math.is_nan(new_loss)  # NaN is kept, so that it is seen
            best = (
                where_image(better, moved, x_best),
                tf.where(better, new_loss, loss_best),
                where_image(better, gradient, gradient_best),
                tf.cond(tf.reduce_any(fooled), lambda: where_image(fooled, moved, x_fooled), lambda: x_fooled),
                fooled | is_fooled,
            )
            rises += tf.cast(new_loss > loss, tf.int32)
            return number + 1, first, fixed, (moved, x_adv, new_loss, gradient), best, rises

        def window(
            number: tf.Tensor,
            alive: tf.Tensor,
            fixed: _Fixed,
            now: _Point,
            best: _Best,
            check: tuple[tf.Tensor, tf.Tensor],
            result: tuple[tf.Tensor, tf.Tensor],
        ) -> tuple[object, ...]:
            length = lengths[number]
            _, _, _, now, best, rises = tf.while_loop(
                lambda step_number, first, fixed, now, best, rises: (step_number < length) & ~tf.reduce_all(best[4]),
                step,
                (tf.constant(0), tf.equal(number, 0), fixed, now, best, tf.zeros_like(alive)),
                parallel_iterations=1,
            )
            x, box, labels, target, step_size = fixed
            x_adv, before, loss, gradient = now
            x_best, loss_best, gradient_best, x_fooled, is_fooled = best
            loss_at_check, halved_at_check = check
            wobbles = tf.cast(rises, tf.float32) <= self.rho * tf.cast(length, tf.float32)
            halve = wobbles | (~halved_at_check & (loss_at_check >= loss_best))
            step_size = tf.where(halve, step_size / 2, step_size)
            now = (where_image(halve, x_best, x_adv), before, loss, where_image(halve, gradient_best, gradient))
            images = where_image(is_fooled, x_fooled, x_best)
            # An infinite loss is no reason to prefer an image that fools nobody.
            finite = tf.where(
                tf.math.is_nan(loss_best), loss_best.dtype.max, tf.minimum(loss_best, loss_best.dtype.max)
            )
            rank = tf.where(is_fooled, float("inf"), finite)
            result = (
                tf.tensor_scatter_nd_update(result[0], alive[:, None], images),
                tf.tensor_scatter_nd_update(result[1], alive[:, None], rank),
            )
            state = (alive, (x, box, labels, target, step_size), now, best, (loss_best, halve))
            rows = iter(compact(~is_fooled, tf.nest.flatten(state)))
            return number + 1, *tf.nest.map_structure(lambda _: next(rows), state), result

        x_adv = self.start(x, seed)
        loss, gradient, is_fooled = evaluate(x_adv, labels, target)
        step_size = tf.fill(tf.shape(labels), 2.0 * tf.cast(self.eps, tf.float32))
        state = (
            tf.constant(0),
            tf.range(tf.shape(x)[0]),
            (x, self._box(x), labels, target, step_size),
            (x_adv, x_adv, loss, gradient),
            (x_adv, loss, gradient, x_adv, is_fooled),
            (loss, tf.ones_like(is_fooled)),
            (x_adv, loss),
        )
        *_, (images, rank) = tf.while_loop(
            lambda number, alive, *_: (number < tf.size(lengths)) & (tf.size(alive) > 0),
            window,
            state,
            shape_invariants=(tf.TensorShape([]), *tf.nest.map_structure(open_batch, state[1:])),
            parallel_iterations=1,
        )
        return images, rank, tf.equal(rank, float("inf"))

    def _box(self, x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Where x_adv may be, if that is a box: with L-inf the cut of ball and range, as (lowest, highest)."""
        if self.norm != "linf":
            return ()
        eps = tf.cast(self.eps, tf.float32)
        low, high = self.bounds
        return tf.maximum(x - eps, low), tf.minimum(x + eps, high)

    def _objective(self, labels: tf.Tensor, target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return self.objective(labels, logits)


# x, its box, label, target, step size; x_adv, the point before it, its loss and gradient; x_best, its loss and
# gradient, x_fooled, whether it is one.
_Fixed = tuple[tf.Tensor, tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor, tf.Tensor]
_Point = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]
_Best = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]


def windows(steps: int) -> list[int]:
    """Steps between the checkpoints: 22 % of all, then 3 % fewer each time down to 6 %; at least 1."""
    length, decrease, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    lengths: list[int] = []
    while sum(lengths) < steps:
        lengths.append(min(length, steps - sum(lengths)))
        length = max(length - decrease, shortest)
    return lengths


def targeted_dlr(labels: tf.Tensor, target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Lead of the target's logit over the label's, by (largest - mean of third and fourth), (n,).

    Where label and target are the same (an attack with a target of the user's), over the largest other logit.
    """
    top = tf.math.top_k(logits, k=4).values
    wanted, own = (tf.gather(logits, ids, axis=1, batch_dims=1) for ids in (target, labels))
    lead = tf.where(tf.equal(labels, target), -margin(target, logits), wanted - own)
    return lead / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)
