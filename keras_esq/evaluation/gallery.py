"""Contact sheet of clean images, adversarial images and their difference."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_esq._checks import check_count, near_matches
from keras_esq.evaluation.plots import new_figure, write_figure
from keras_esq.evaluation.sets import CLEAN

if TYPE_CHECKING:
    from keras_esq.evaluation.report import RobustnessReport


def plot_examples(
    report: RobustnessReport, path: str | os.PathLike[str], attack: str | None = None, count: int = 8
) -> Path:
    """Draw samples under an attack: clean, adversarial, and the difference, which is scaled to be seen.

    Samples that the attack fooled come first, then those that it did not. Above each image stands the class that the
    model sees; that of the clean ones is right.

    Args:
        report: from `evaluate_robustness(..., keep_examples=True)`.
        path: file to write; PNG unless the suffix names another format of matplotlib.
        attack: name of its row. Default the first attack.
        count: samples to show at most.

    Raises:
        KeyError: for an unknown attack.
        OSError: if `path` can't be written.
        ValueError: if the report kept no examples, or x holds no images of 1 or 3 channels; if matplotlib doesn't know
            the format.
    """
    check_count("count", count)
    examples = report.examples
    if examples is None or not report.x_adv:
        raise ValueError(
            "Expected a report with images. Received one without. Run evaluate_robustness(..., keep_examples=True); "
            "JSON does not hold them."
        )
    name = next(iter(report.x_adv)) if attack is None else attack
    if name not in report.x_adv:
        raise KeyError(f"Expected an attack of this report. Received: {name!r}. {near_matches(name, report.x_adv)}")
    right = report.robust[CLEAN]
    fooled = right & ~report.robust[name]
    order = [*np.flatnonzero(fooled), *np.flatnonzero(right & ~fooled)][:count]
    if not order:
        raise ValueError("Expected a sample that is right before the attack. Received none: nothing was attacked.")
    clean, adversarial = _pixels(examples.x)[order], _pixels(report.x_adv[name])[order]
    both = np.stack([clean, adversarial])
    low, high = min(0.0, float(both.min())), max(1.0, float(both.max()))
    difference = adversarial - clean
    largest = float(np.abs(difference).max()) or 1.0
    figure = new_figure(max(3.5, 1.15 * len(order)), 4.2)
    grid = figure.subplots(3, len(order), squeeze=False)
    for column, sample in enumerate(order):
        true, now = int(examples.labels[sample]), int(examples.predicted[name][sample])
        titles = (f"{true}", f"{now}" if now != true else f"{now} (still)", "")
        one = ((clean[column] - low) / (high - low), (adversarial[column] - low) / (high - low))
        for row, image in enumerate((*one, 0.5 + difference[column] / (2 * largest))):
            axes = grid[row, column]
            gray, image = image.shape[-1] == 1, np.clip(image, 0, 1)  # rounding
            colours = "coolwarm" if row == 2 else "gray"
            axes.imshow(image[..., 0] if gray else image, cmap=colours if gray else None, vmin=0, vmax=1)
            axes.set_title(titles[row], fontsize=9)
            axes.set(xticks=[], yticks=[])
    for row, label in enumerate(("clean", name, f"difference\n(full: ±{largest:.2g})")):
        grid[row, 0].set_ylabel(label, fontsize=9)
    figure.suptitle(f"{report.target} under {name}: {int(fooled.sum())} of {int(right.sum())} fooled", fontsize=10)
    return write_figure(figure, path)


def _pixels(x: np.ndarray) -> np.ndarray:
    """Images (n, height, width, 1 or 3)."""
    images = x[..., None] if x.ndim == 3 else x
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"Expected images of shape (n, height, width), or with 1 or 3 channels, to draw. Received: {x.shape}."
        )
    return images
