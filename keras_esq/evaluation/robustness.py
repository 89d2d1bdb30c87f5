"""Accuracy under attack, sample by sample."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_esq._checks import check_count, check_images, check_labels, check_seed
from keras_esq.attacks import Attack
from keras_esq.attacks.norms import distances
from keras_esq.evaluation.report import ReportRow, RobustnessReport
from keras_esq.evaluation.sets import CLEAN, WORST_CASE, get_attacks
from keras_esq.evaluation.targets import Target, get_target


def evaluate_robustness(
    target: Any,
    x: Any,
    y: Any,
    *,
    attacks: Any = "quick",
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = True,
    keep_examples: bool = False,
) -> RobustnessReport:
    """Measure how often `target` is right: on `x` as it is, under each attack, and under the worst of them per sample.

    A sample is robust under an attack if it is right both before and after; in the worst case, after every one. Samples
    that are wrong before are not attacked.

    Args:
        target: a tf_keras model: float, quantized or ErrorSilencedModel; logits, softmax or sigmoid.
        x: images (n, ...) inside the attacks' `bounds`, (0, 1) by default.
        y: true class ids (n,) or (n, 1), or one-hot rows (n, k).
        attacks: "quick" (FGSM, and PGD of 20 steps with 5 restarts, at eps 8/255), an attack, a list of attacks or a
            dict {name: attack}. Default "quick": a first look, minutes at most.
        batch_size: images predicted and attacked at once.
        seed: int in [0, 2**31); same seed, same result. An attack with a seed of its own keeps that.
        progress: show a progress bar on stderr.
        keep_examples: keep the adversarial images in `report.x_adv`; they take the memory of `x` for each attack.

    Raises:
        TypeError: if target, attacks, x or y is of a kind that is not accepted.
        ValueError: if x or y is empty, of a wrong shape, holds NaN or leaves its range; for unknown or targeted
            attacks; if the target predicts NaN.
    """
    check_count("batch_size", batch_size)
    check_seed("seed", seed)
    classifier, named = get_target(target), get_attacks(attacks)
    for attack in named.values():
        images = check_images(x, attack.bounds, classifier.input_shape)
    start = time.perf_counter()
    num_classes = classifier.logits(images[:1], 1).shape[1]
    labels = check_labels(y, num_classes, len(images))
    clean = classifier.logits(images, batch_size).argmax(axis=1) == labels
    nothing = np.zeros(0)
    rows = [ReportRow.of(CLEAN, "", clean, nothing, nothing, time.perf_counter() - start)]
    robust, kept = {CLEAN: clean}, {}
    nearest = {"linf": np.full(len(images), np.inf), "l2": np.full(len(images), np.inf)}
    right = np.flatnonzero(clean)
    batches = [right[i : i + batch_size] for i in range(0, len(right), batch_size)]
    with tqdm(total=len(named) * len(batches), disable=not progress, unit="batch") as bar:
        for name, attack in named.items():
            bar.set_description(name)
            start = time.perf_counter()
            survives, x_adv = clean.copy(), images.copy()
            for number, batch in enumerate(batches):
                x_adv[batch] = _attack_batch(classifier, attack, images[batch], labels[batch], (seed, number))
                survives[batch] = classifier.logits(x_adv[batch], batch_size).argmax(axis=1) == labels[batch]
                bar.update()
            fooled = clean & ~survives
            far = {norm: distances(images[fooled], x_adv[fooled], norm) for norm in ("linf", "l2")}
            for norm, least in nearest.items():
                least[fooled] = np.minimum(least[fooled], far[norm])
            seconds = time.perf_counter() - start
            rows.append(ReportRow.of(name, repr(attack), survives, far["linf"], far["l2"], seconds))
            robust[name] = survives
            if keep_examples:
                kept[name] = x_adv
    worst = np.logical_and.reduce(list(robust.values()))
    linf, l2 = (least[np.isfinite(least)] for least in nearest.values())
    rows.append(ReportRow.of(WORST_CASE, "", worst, linf, l2, sum(row.seconds for row in rows)))
    robust[WORST_CASE] = worst
    return RobustnessReport(target=classifier.name, rows=tuple(rows), robust=robust, x_adv=kept)


def _attack_batch(
    target: Target, attack: Attack, images: np.ndarray, labels: np.ndarray, seed: tuple[int, int]
) -> np.ndarray:
    base = seed[0] if attack.seed is None else attack.seed
    # A seed per batch, the same whatever other attacks are run. Compiled functions don't depend on it.
    batch_seed = int(np.random.SeedSequence([base, seed[1]]).generate_state(1)[0] % 2**31)
    seeded = dataclasses.replace(attack, seed=batch_seed)
    x_adv = seeded(target.model, images, labels, batch_size=len(images))
    # Attacks may be the user's own: one that cheats would make any model look weak.
    return check_images(x_adv, attack.bounds, images.shape, name=f"the images of {type(attack).__name__}")
