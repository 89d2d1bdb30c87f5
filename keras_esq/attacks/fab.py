"""FAB: walks along the decision boundary towards the image."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from keras_esq._checks import check_count, check_fraction, check_positive
from keras_esq.attacks.gradient import NO_GRADIENT, value_and_gradient
from keras_esq.attacks.hyperplane import to_hyperplane
from keras_esq.attacks.logits import LogitsFn
from keras_esq.attacks.minimal import MinimalAttack
from keras_esq.attacks.norms import Norm, get_norm
from keras_esq.attacks.survivors import (
    attack_survivors,
    flat_norm,
    per_image,
    ranked_classes,
    where_image,
    with_nan,
)

# Radius of the random start, and half of it used, where no eps and no image found says how far to look: the published
# code's. L-inf as a share of the range, L2 of it too.
_START = {"linf": 0.3, "l2": 1.0}


@dataclass(frozen=True, kw_only=True, eq=False)
class FAB(MinimalAttack):
    """Fast adaptive boundary attack: the smallest perturbation by projections onto the linearized decision boundary.

    Each step projects both the present point and the image onto the hyperplane, goes a little beyond it, and mixes the
    two; a point that fools is pulled back towards the image. Needs no step size.

    Args:
        target_classes: None: the hyperplane of the nearest class, which costs a gradient per class and step. A number:
            FAB-T, one run for each of that many most likely wrong classes (all, if there are fewer). Default 9, as in
            AutoAttack.
        norm: "linf" or "l2". Default "linf".
        steps: steps of a run. Default 100, the paper's.
        restarts: runs from the image, then from random points around it. Default 1, as in AutoAttack.
        alpha_max: greatest weight of the image's projection in the mix, in [0, 1]. Default 0.1, the paper's.
        eta: how far to go beyond the hyperplane, >= 1. Default 1.05, the paper's.
        beta: share of its distance that a point which fools keeps, in (0, 1). Default 0.9, the paper's.
        eps: as `MinimalAttack`; samples that fell within it take part in no further run. Default None.
        Others: temperature as `WhiteBoxAttack`; bounds, targeted, seed as `Attack`.

    Reference: Croce and Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack", 2020
    (arXiv:1907.02044); FAB-T: arXiv:2003.01690.
    """

    target_classes: int | None = 9
    norm: Norm = "linf"
    steps: int = 100
    restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("norm", get_norm(self.norm))
        for name in ("steps", "restarts"):
            check_count(name, getattr(self, name))
        if self.target_classes is not None:
            check_count("target_classes", self.target_classes)
        for name in ("alpha_max", "beta"):
            self._set(name, check_positive(name, check_fraction(name, getattr(self, name))))
        self._set("eta", check_positive("eta", self.eta))
        if self.eta < 1:
            raise ValueError(f"Expected eta >= 1, to get beyond the boundary. Received: {self.eta!r}.")

    def measure(self) -> Norm:
        """See `MinimalAttack.measure`."""
        return self.norm

    def search(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `MinimalAttack.search`."""
        attempts, targets = self.restarts, labels[:, None]
        by_target = self.target_classes is not None and not self.targeted
        if by_target:
            logits = model_fn(x)
            targets = ranked_classes(labels, logits, min(self.target_classes, logits.shape[-1] - 1))
            attempts *= targets.shape[1]
        radius = tf.cast(float("inf") if self.eps is None else self.eps, tf.float32)
        start_radius = self.span() * _START[self.norm] if self.eps is None else radius

        def attempt(
            number: tf.Tensor, rank: tf.Tensor, x: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            target = tf.gather(targets, number % targets.shape[1], axis=1) if by_target else None
            noise = self._noise(x, tf.minimum(-rank, start_radius), tf.random.fold_in(seed, number))
            start = tf.where(number < targets.shape[1], x, tf.clip_by_value(x + noise, *self.bounds))
            x_adv, distance = self._walk(model_fn, x, start, labels, target)
            return x_adv, -distance, (distance <= radius) & tf.math.is_finite(radius)

        return attack_survivors(attempt, attempts, x, labels, targets)

    def _noise(self, x: tf.Tensor, length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """A random direction, half of `length` (n,) long."""
        linf = self.norm == "linf"
        noise = (
            tf.random.stateless_uniform(tf.shape(x), seed, -1.0, 1.0)
            if linf
            else tf.random.stateless_normal(tf.shape(x), seed)
        )
        return 0.5 * per_image(length / flat_norm(noise, self.norm), x) * noise

    def _walk(
        self, model_fn: LogitsFn, x: tf.Tensor, start: tf.Tensor, labels: tf.Tensor, target: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One run: the nearest images that fool (n, ...), and their distances (n,), infinite where there is none."""
        shape, size = tf.shape(x), x.shape[1:].num_elements() or -1
        flat = tf.reshape(x, [shape[0], size])

        def judge(x_adv: tf.Tensor, best: tf.Tensor, nearest: tf.Tensor) -> tuple[tf.Tensor, ...]:
            fooled, distance = self.fooled(labels, model_fn(x_adv)), flat_norm(x_adv - x, self.norm)
            better = fooled & (distance < nearest)
            return fooled, where_image(better, x_adv, best), tf.where(better, distance, nearest)

        def body(number: tf.Tensor, x_adv: tf.Tensor, best: tf.Tensor, nearest: tf.Tensor) -> tuple[tf.Tensor, ...]:
            difference, normal = self._boundary(model_fn, x_adv, labels, target)
            point, normal = (tf.reshape(one, [shape[0], size]) for one in (x_adv, normal))
            from_image = -difference - tf.reduce_sum(normal * (flat - point), axis=1)
            step = to_hyperplane(point, normal, -difference, self.bounds, self.norm)
            step_image = to_hyperplane(flat, normal, from_image, self.bounds, self.norm)
            length, length_image = (tf.maximum(flat_norm(one, self.norm), 1e-8) for one in (step, step_image))
            alpha = tf.minimum(length / (length + length_image), self.alpha_max)[:, None]
            mixed = (1.0 - alpha) * (point + self.eta * step) + alpha * (flat + self.eta * step_image)
            x_adv = tf.reshape(tf.clip_by_value(mixed, *self.bounds), shape)
            fooled, best, nearest = judge(x_adv, best, nearest)
            return number + 1, where_image(fooled, x + self.beta * (x_adv - x), x_adv), best, nearest

        # A sample that is wrong as it is needs no perturbation.
        _, best, nearest = judge(x, x, tf.fill(shape[:1], float("inf")))
        _, *found = tf.while_loop(
            lambda number, x_adv, best, nearest: (number < self.steps) & tf.reduce_any(nearest > 0),
            body,
            (tf.constant(0), start, best, nearest),
            maximum_iterations=self.steps,
            parallel_iterations=1,
        )
        return with_nan(*found)

    def _boundary(
        self, model_fn: LogitsFn, x_adv: tf.Tensor, labels: tf.Tensor, target: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What is missing for the attack to succeed as a linear function: its value (n,) and gradient (n, ...)."""
        if self.targeted or target is not None:

            def lead(logits: tf.Tensor) -> tf.Tensor:
                wanted, lost = (labels, None) if self.targeted else (target, labels)
                other = tf.argmax(_without(wanted, logits), axis=1, output_type=tf.int32) if lost is None else lost
                return _pick(logits, wanted) - _pick(logits, other)

            value, _, gradient = value_and_gradient(model_fn, x_adv, lead)
            return value, gradient
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x_adv)
            logits = model_fn(x_adv)
            leads = logits - _pick(logits, labels)[:, None]
        # batch_jacobian gives zeros where there is no gradient, which would pass for robustness.
        if tape.gradient(leads, x_adv) is None:
            raise ValueError(NO_GRADIENT)
        # Not vectorized: not every gradient of a quantized network has a vectorized form.
        gradients = tape.batch_jacobian(leads, x_adv, experimental_use_pfor=False)
        flat = tf.reshape(gradients, tf.concat([tf.shape(leads), [-1]], 0))
        # The norm dual to that of the perturbation.
        dual = tf.norm(flat, ord=1 if self.norm == "linf" else 2, axis=2)
        away = tf.abs(leads) / (dual + 1e-12)
        away = tf.where(tf.math.is_nan(away), -1.0, away)  # argmin would pass over it
        own = tf.one_hot(labels, leads.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
        nearest = tf.argmin(tf.where(own, float("inf"), away), axis=1, output_type=tf.int32)
        return _pick(leads, nearest), tf.gather(gradients, nearest, axis=1, batch_dims=1)


def _pick(logits: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    return tf.gather(logits, ids, axis=1, batch_dims=1)


def _without(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    own = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
    return tf.where(own, logits.dtype.min, logits)
