"""Accuracy under attack, sample by sample."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_esq._checks import check_count, check_images, check_labels, check_seed
from keras_esq.attacks import Attack
from keras_esq.attacks.norms import Norm, distances
from keras_esq.attacks.temperature import Temperature
from keras_esq.evaluation.batches import BatchOutcome, attack_batch, seeded
from keras_esq.evaluation.cache import BatchCache
from keras_esq.evaluation.corruption_report import check_no_ball, evaluate_corruptions
from keras_esq.evaluation.report import Examples, ReportRow, RobustnessReport
from keras_esq.evaluation.sets import CLEAN, CORRUPTION_SET, WORST_CASE, for_target, get_attacks
from keras_esq.evaluation.targets import Target, get_target


def evaluate_robustness(
    target: Any,
    x: Any,
    y: Any,
    *,
    attacks: Any = "quick",
    eps: float | None = None,
    norm: Norm | None = None,
    bounds: tuple[float, float] | None = None,
    temperature: Temperature = None,
    source: Any = None,
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = True,
    keep_examples: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> RobustnessReport:
    """Measure how often `target` is right: on `x` as it is, under each attack, and under the worst of them per sample.

    A sample is robust under an attack if it is right both before and after; in the worst case, after every one. Samples
    that are wrong before are not attacked.

    Args:
        target: a tf_keras model (float, quantized or ErrorSilencedModel; logits, softmax or sigmoid) or a Keras 3
            model, which is translated (`esq.from_keras3`); for attacks without gradients also a
            `keras_esq.Flatbuffer`, a Keras 3 model that can't be translated or a function of numpy images (n, ...) to
            scores (n, k).
        x: images (n, ...) inside the attacks' `bounds`, (0, 1) by default.
        y: true class ids (n,) or (n, 1), or one-hot rows (n, k).
        attacks: the set "quick", "paper", "autoattack" or "blackbox" (see `attack_set`), an attack, a list of attacks
            or a dict {name: attack}. Default "quick": a first look, minutes at most. Or "corruptions", which are no
            attacks: noise, blur and compression in five severities, see `evaluate_corruptions`.
        eps, norm, bounds, temperature: of a named set, see `attack_set`; other attacks have their own. Default None:
            the set's.
        source: for targets without gradients, such as files: the Keras model behind it. Attacks by gradient are made
            against that, and their images tried on the target. Without it "autoattack" is just its part that needs no
            gradient, Square.
        batch_size: images predicted and attacked at once.
        seed: int in [0, 2**31); same seed, same result. An attack with a seed of its own keeps that.
        progress: show a progress bar on stderr.
        keep_examples: keep clean and adversarial images in the report, for `plot_examples`; they take the memory of `x`
            for each attack.
        cache: a folder, made if needed, for finished batches: the same call goes on from them after it was killed. For
            another model, other data or settings they are not used but computed anew.

    Raises:
        TypeError: if target, attacks, x or y is of a kind that is not accepted; for attacks by gradient on what is no
            tf_keras model and can't be translated to one, without a `source`.
        ValueError: if x or y is empty, of a wrong shape, holds NaN or leaves its range; for unknown or targeted
            attacks; for eps, norm, bounds or temperature without a named set; for a source with a tf_keras model; if
            the target predicts NaN; with `cache` for attacks with a function among their settings.
        OSError: if `cache` can't be written.
    """
    check_count("batch_size", batch_size)
    check_seed("seed", seed)
    classifier = get_target(target)
    if isinstance(attacks, str) and attacks == CORRUPTION_SET:
        # Nothing to cache: it is the predictions that take the time.
        check_no_ball(eps=eps, norm=norm, temperature=temperature, source=source)
        return evaluate_corruptions(
            classifier,
            x,
            y,
            bounds=(0.0, 1.0) if bounds is None else bounds,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
            keep_examples=keep_examples,
        )
    named = get_attacks(attacks, eps=eps, norm=norm, bounds=bounds, temperature=temperature)
    named = for_target(named, classifier, source)
    for attack in named.values():
        images = check_images(x, attack.bounds, classifier.input_shape)
    start = time.perf_counter()
    num_classes = classifier.logits(images[:1], 1).shape[1]
    labels = check_labels(y, num_classes, len(images))
    scores = classifier.logits(images, batch_size)
    predicted = {CLEAN: scores.argmax(axis=1)}
    clean = predicted[CLEAN] == labels
    nothing = np.zeros(0)
    rows = [ReportRow.of(CLEAN, "", clean, nothing, nothing, time.perf_counter() - start)]
    robust, kept = {CLEAN: clean}, {}
    nearest = {"linf": np.full(len(images), np.inf), "l2": np.full(len(images), np.inf)}
    right = np.flatnonzero(clean)
    batches = [right[i : i + batch_size] for i in range(0, len(right), batch_size)]
    store = None if cache is None else BatchCache(cache, classifier, images, scores)
    # Within another bar it goes when it is done.
    with tqdm(total=len(named) * len(batches), disable=not progress, unit="batch", leave=None) as bar:
        for name, attack in named.items():
            bar.set_description(name)
            x_adv, answer, seconds, queries = images.copy(), predicted[CLEAN].copy(), 0.0, []
            for number, batch in enumerate(batches):
                start = time.perf_counter()
                outcome = _attack(classifier, seeded(attack, seed, number), images[batch], labels[batch], store)
                x_adv[batch] = outcome.x_adv
                answer[batch] = classifier.logits(outcome.x_adv, batch_size).argmax(axis=1)
                # Of a batch from the cache: the time that it took then.
                seconds += max(outcome.seconds, time.perf_counter() - start)
                queries += [] if outcome.queries is None else [outcome.queries]
                bar.update()
            robust[name] = clean & (answer == labels)
            fooled = clean & ~robust[name]
            far = {norm: distances(images[fooled], x_adv[fooled], norm) for norm in ("linf", "l2")}
            for kind, least in nearest.items():
                least[fooled] = np.minimum(least[fooled], far[kind])
            asked = np.concatenate(queries) if queries else None
            rows.append(ReportRow.of(name, repr(attack), robust[name], far["linf"], far["l2"], seconds, asked))
            if keep_examples:
                kept[name], predicted[name] = x_adv, answer
    worst = np.logical_and.reduce(list(robust.values()))
    linf, l2 = (least[np.isfinite(least)] for least in nearest.values())
    rows.append(ReportRow.of(WORST_CASE, "", worst, linf, l2, sum(row.seconds for row in rows)))
    robust[WORST_CASE] = worst
    examples = Examples(x=images, labels=labels, predicted=predicted) if keep_examples else None
    return RobustnessReport(target=classifier.name, rows=tuple(rows), robust=robust, x_adv=kept, examples=examples)


def _attack(
    target: Target, attack: Attack, images: np.ndarray, labels: np.ndarray, store: BatchCache | None
) -> BatchOutcome:
    """The outcome on one batch, from the cache if it has it, else computed and kept there."""
    if store is None:
        return attack_batch(target.model, attack, images, labels)
    path = store.path(attack, images, labels)
    outcome = store.load(path, images.shape)
    if outcome is None:
        outcome = attack_batch(target.model, attack, images, labels)
        store.save(path, outcome)
    return outcome
