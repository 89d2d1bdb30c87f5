"""The picture of a search with several objectives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from keras_esq.evaluation.plots import new_figure, write_figure

if TYPE_CHECKING:
    from keras_esq.tuning.results import SearchResults


def plot_pareto(results: SearchResults, path: str | os.PathLike[str]) -> Path:
    """Draw every completed trial over the first two objectives, with the Pareto front as a line.

    Args:
        results: of a search with two objectives or more.
        path: file to write; PNG unless the suffix names another format of matplotlib.

    Raises:
        OSError: if `path` can't be written.
        ValueError: for a search with one objective, or without a completed trial.
    """
    if len(results.goals) < 2:
        raise ValueError(
            f"Expected a search with two objectives or more. Received one for {results.goals[0].name!r} only. Search "
            "with objective=['val_adversarial_accuracy', 'file_bytes']."
        )
    if not results.completed:
        raise ValueError(f"Expected at least one completed trial to draw. Found {results.counts()}.")
    y, x = (goal.name for goal in results.goals[:2])
    figure = new_figure(6.0, 4.0)
    axes = figure.add_subplot()
    front = sorted(results.pareto(), key=lambda trial: trial.metrics[x])
    others = [trial for trial in results.completed if trial not in front]
    axes.scatter([t.metrics[x] for t in others], [t.metrics[y] for t in others], color="gray", label="beaten")
    axes.plot([t.metrics[x] for t in front], [t.metrics[y] for t in front], marker="o", label="Pareto front")
    for trial in front:
        axes.annotate(trial.trial_id, (trial.metrics[x], trial.metrics[y]), (4, 4), textcoords="offset points")
    axes.set(xlabel=x, ylabel=y, title=f"{len(results.completed)} trials")
    axes.legend()
    return write_figure(figure, path)
