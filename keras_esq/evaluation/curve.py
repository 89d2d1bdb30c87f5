"""Accuracy against the strength of an attack: it must fall to 0."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_esq._checks import check_count, check_images, check_labels, check_positive, check_seed
from keras_esq._text import aligned
from keras_esq.attacks import Attack
from keras_esq.evaluation.batches import attack_batch, seeded
from keras_esq.evaluation.intervals import wilson_interval
from keras_esq.evaluation.sets import check_usable, get_attacks
from keras_esq.evaluation.targets import get_target

# Up to half the range in L-inf, where any image can turn into one grey.
_SHARES = (1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 32 / 255, 64 / 255, 0.5)


@dataclass(frozen=True, kw_only=True)
class AccuracyCurve:
    """What `accuracy_curve` found.

    Args:
        target: name of the model.
        attack: name of the attack.
        eps: radii in input units, rising; 0 first.
        correct: samples right within each of them, never rising.
        n: number of samples.
    """

    target: str
    attack: str
    eps: tuple[float, ...]
    correct: tuple[int, ...]
    n: int

    @property
    def accuracy(self) -> np.ndarray:
        """Share of samples right at each radius, (len(eps),)."""
        return np.array(self.correct) / self.n

    @property
    def reaches_zero(self) -> bool:
        """Whether no more than 2 % are left at the largest radius, by Wilson's lower bound."""
        return wilson_interval(self.correct[-1], self.n)[0] <= 0.02

    def table(self) -> str:
        """The curve as aligned text for a terminal."""
        rows = [
            (f"{eps:.4g}", f"{100 * k / self.n:.1f} %", "{:.1f} - {:.1f}".format(*_percent(k, self.n)))
            for eps, k in zip(self.eps, self.correct, strict=True)
        ]
        return aligned([("eps", "accuracy", "95 % interval"), *rows], left=0)

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw the curve to `path`; see `plot_accuracy_curve`, which also draws several."""
        from keras_esq.evaluation.plots import plot_accuracy_curve

        return plot_accuracy_curve({self.target: self}, path)


def accuracy_curve(
    target: Any,
    x: Any,
    y: Any,
    attack: Attack,
    eps: Sequence[float] | None = None,
    *,
    batch_size: int = 128,
    seed: int = 0,
) -> AccuracyCurve:
    """Attack with growing radius. A sample that fell within a ball counts as fallen in larger ones, which contain it.

    Args:
        target: what `evaluate_robustness` takes.
        x: images (n, ...) in the attack's `bounds`.
        y: true class ids (n,) or (n, 1), or one-hot rows (n, k).
        attack: one with an `eps`; a `step_size` grows along with it.
        eps: radii in input units, > 0. Default 1, 2, 4, ... 64 / 255 and a half of the range; in L2 those times the
            square root of the number of pixels, so that the last one again lets any image turn grey.
        batch_size, seed: as for `evaluate_robustness`.

    Raises:
        TypeError, ValueError: as `evaluate_robustness`; also for an attack without an eps, or no radius.
    """
    check_count("batch_size", batch_size)
    check_seed("seed", seed)
    classifier = get_target(target)
    named = get_attacks([attack])
    check_usable(named, classifier)
    ((name, attack),) = named.items()
    if not hasattr(attack, "eps"):
        raise ValueError(f"Expected an attack with a radius eps, such as PGD. Received: {attack!r}.")
    images = check_images(x, attack.bounds, classifier.input_shape)
    scores = classifier.logits(images, batch_size)
    labels = check_labels(y, scores.shape[1], len(images))
    alive = np.flatnonzero(scores.argmax(axis=1) == labels)
    if eps is None:
        l2 = getattr(attack, "norm", "l2") == "l2"
        unit = (attack.bounds[1] - attack.bounds[0]) * (np.sqrt(images[0].size) if l2 else 1.0)
        eps = [float(share * unit) for share in _SHARES]
    if not isinstance(eps, Iterable):
        raise TypeError(f"Expected eps to be a list of radii. Received: {eps!r}. For one radius pass eps=[{eps!r}].")
    radii = sorted({check_positive("eps", one) for one in eps})
    if not radii:
        raise ValueError("Expected at least one radius in eps. Received none.")
    correct = [len(alive)]
    for radius in radii:
        stronger = _with_radius(attack, radius)
        kept = []
        for number, start in enumerate(range(0, len(alive), batch_size)):
            batch = alive[start : start + batch_size]
            one = attack_batch(classifier.model, seeded(stronger, seed, number), images[batch], labels[batch])
            kept.append(batch[classifier.logits(one.x_adv, batch_size).argmax(axis=1) == labels[batch]])
        alive = np.concatenate(kept) if kept else alive
        correct.append(len(alive))
    return AccuracyCurve(target=classifier.name, attack=name, eps=(0.0, *radii), correct=tuple(correct), n=len(images))


def _with_radius(attack: Any, radius: float) -> Attack:
    changes: dict[str, Any] = {"eps": radius}
    if attack.eps is not None and getattr(attack, "step_size", None) is not None and hasattr(attack, "loss"):
        changes["step_size"] = float(attack.step_size) * radius / float(attack.eps)
    return dataclasses.replace(attack, **changes)


def _percent(k: int, n: int) -> tuple[float, float]:
    low, high = wilson_interval(k, n)
    return 100 * low, 100 * high
