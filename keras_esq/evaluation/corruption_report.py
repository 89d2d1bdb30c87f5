"""Accuracy on corrupted images: `evaluate_robustness(..., attacks="corruptions")`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_esq._checks import check_bounds, check_images, check_labels
from keras_esq.attacks.norms import distances
from keras_esq.evaluation.corruptions import CORRUPTIONS, SEVERITIES, check_corruptible, corrupt, corruption_parameters
from keras_esq.evaluation.report import Examples, ReportRow, RobustnessReport
from keras_esq.evaluation.sets import CLEAN, CORRUPTION_SET, MEAN_CORRUPTION, WORST_CASE
from keras_esq.evaluation.targets import Target


def evaluate_corruptions(
    target: Target,
    x: Any,
    y: Any,
    *,
    bounds: tuple[float, float],
    batch_size: int,
    seed: int,
    progress: bool,
    keep_examples: bool,
) -> RobustnessReport:
    """Measure how often `target` is right on `x` under each of `CORRUPTIONS` at each severity.

    The accuracy of a row is the mean over its severities and all images, those included that are wrong on the clean
    image, as in the paper; that of "mean corruption" is the mean over the corruptions. A corruption's mask in `robust`
    is where the clean image and all its severities are right, and "gaussian_noise-3" is where that severity is.
    Examples and distances are those of the mildest severity that fools, and without one of the strongest.

    Args and Raises: as for `evaluate_robustness`.
    """
    bounds = check_bounds(bounds)
    images = check_corruptible(check_images(x, bounds, target.input_shape))
    start = time.perf_counter()
    labels = check_labels(y, target.logits(images[:1], 1).shape[1], len(images))
    predicted = {CLEAN: target.logits(images, batch_size).argmax(axis=1)}
    clean = predicted[CLEAN] == labels
    rows = [ReportRow.of(CLEAN, "", clean, np.zeros(0), np.zeros(0), time.perf_counter() - start)]
    robust, kept, every = {CLEAN: clean}, {}, []
    nearest = {"linf": np.full(len(images), np.inf), "l2": np.full(len(images), np.inf)}
    batches = [slice(i, i + batch_size) for i in range(0, len(images), batch_size)]
    with tqdm(total=len(CORRUPTIONS) * len(batches), disable=not progress, unit="batch") as bar:
        for name in CORRUPTIONS:
            bar.set_description(name)
            start = time.perf_counter()
            right = np.zeros((len(SEVERITIES), len(images)), bool)
            shown, answer = images.copy(), predicted[CLEAN].copy()
            for number, batch in enumerate(batches):
                # From the strongest, so that the mildest one that fools is what is left.
                for severity in reversed(SEVERITIES):
                    batch_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0] % 2**31)
                    x_new = corrupt(images[batch], name, severity=severity, bounds=bounds, seed=batch_seed)
                    now = target.logits(x_new, batch_size).argmax(axis=1)
                    right[severity - 1, batch] = now == labels[batch]
                    show = ~right[severity - 1, batch] | (severity == SEVERITIES[-1])
                    shown[batch][show], answer[batch][show] = x_new[show], now[show]
                bar.update()
            robust |= {f"{name}-{severity}": right[severity - 1] for severity in SEVERITIES}
            robust[name] = clean & right.all(axis=0)
            fooled = clean & ~robust[name]
            far = {norm: distances(images[fooled], shown[fooled], norm) for norm in ("linf", "l2")}
            for kind, least in nearest.items():
                least[fooled] = np.minimum(least[fooled], far[kind])
            settings = [corruption_parameters(name, severity, min(images.shape[1:3])) for severity in SEVERITIES]
            seconds = time.perf_counter() - start
            text = f"corrupt({name!r}), parameters {_rounded(settings)}"
            rows.append(ReportRow.of_severities(name, text, right, far["linf"], far["l2"], seconds))
            every.append(right)
            if keep_examples:
                kept[name], predicted[name] = shown, answer
    seconds = sum(row.seconds for row in rows)
    nothing = np.zeros(0)
    mean = np.concatenate(every, axis=1)
    rows.append(ReportRow.of_severities(MEAN_CORRUPTION, "", mean, nothing, nothing, seconds, len(images)))
    robust[WORST_CASE] = np.logical_and.reduce(list(robust.values()))
    linf, l2 = (least[np.isfinite(least)] for least in nearest.values())
    rows.append(ReportRow.of(WORST_CASE, "", robust[WORST_CASE], linf, l2, seconds))
    examples = Examples(x=images, labels=labels, predicted=predicted) if keep_examples else None
    return RobustnessReport(target=target.name, rows=tuple(rows), robust=robust, x_adv=kept, examples=examples)


def check_no_ball(**settings: Any) -> None:
    """Raise ValueError if a setting was given that is for attacks only."""
    given = [f"{name}={value!r}" for name, value in settings.items() if value is not None]
    if given:
        raise ValueError(
            f"Expected no {', '.join(settings)} with attacks={CORRUPTION_SET!r}, whose severities are the paper's. "
            f"Received: {', '.join(given)}. Leave it out."
        )


def _rounded(parameters: Any) -> str:
    if isinstance(parameters, list | tuple):
        return f"({', '.join(map(_rounded, parameters))})"
    return f"{parameters:.4g}"
