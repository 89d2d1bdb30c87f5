"""Pictures of reports and profiles; matplotlib is imported only when one is drawn, and needs no display."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_esq._files import write_atomic

if TYPE_CHECKING:
    from keras_esq.evaluation.amplification import AmplificationProfile
    from keras_esq.evaluation.report import RobustnessReport


def _figure(width: float, height: float) -> tuple[Any, Any]:
    # A Figure of its own, not pyplot's: no global state, no window, no choice of backend.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.add_subplot()


def _write(figure: Any, path: str | os.PathLike[str]) -> Path:
    picture = io.BytesIO()
    figure.savefig(picture, format=Path(path).suffix.lstrip(".") or "png")
    return write_atomic(path, picture.getvalue())


def plot_report(report: RobustnessReport, path: str | os.PathLike[str]) -> Path:
    """Draw the accuracies of a report as bars with their 95 % intervals.

    Args:
        report: from `evaluate_robustness`.
        path: file to write; PNG unless the suffix names another format of matplotlib.

    Raises:
        OSError: if `path` can't be written.
        ValueError: if matplotlib doesn't know the format.
    """
    rows = report.rows
    figure, axes = _figure(max(4.0, 1.2 * len(rows)), 3.5)
    accuracy = np.array([row.accuracy for row in rows])
    interval = np.array([[row.accuracy - row.low for row in rows], [row.high - row.accuracy for row in rows]])
    bars = axes.bar([row.name for row in rows], 100 * accuracy, yerr=100 * np.maximum(interval, 0), capsize=4)
    axes.bar_label(bars, fmt="%.1f", label_type="center")
    axes.set(ylim=(0, 105), ylabel="accuracy (%)", title=f"{report.target}, {rows[0].n} samples")
    axes.tick_params(axis="x", labelrotation=20)
    return _write(figure, path)


def plot_amplification(profiles: Mapping[str, AmplificationProfile], path: str | os.PathLike[str]) -> Path:
    """Draw the error amplification of several models by layer: the mean as a line, one standard deviation around it.

    Args:
        profiles: {model name: profile from `error_amplification`}. A layer that a model lacks is left out of its line.
        path: file to write; PNG unless the suffix names another format of matplotlib.

    Raises:
        OSError: if `path` can't be written.
        ValueError: if there is no profile or matplotlib doesn't know the format.

    Reference: [ESQ], Figures 1 and 2.
    """
    if not profiles:
        raise ValueError("Expected at least one profile {model name: profile}. Received none.")
    order = {name: i for i, name in enumerate(dict.fromkeys(name for one in profiles.values() for name in one))}
    order["logits"] = order.pop("logits", len(order))
    position = {name: i for i, name in enumerate(sorted(order, key=lambda name: (name == "logits", order[name])))}
    figure, axes = _figure(max(5.0, 0.8 * len(position)), 4.0)
    for model, profile in profiles.items():
        names = sorted(profile, key=lambda name: position[name])
        places = [position[name] for name in names]
        mean, std = (np.array([values[name] for name in names]) for values in (profile.mean, profile.std))
        (line,) = axes.plot(places, mean, marker="o", label=model)
        axes.fill_between(places, np.maximum(mean - std, 0), mean + std, color=line.get_color(), alpha=0.15)
    axes.set_xticks(list(position.values()), list(position), rotation=30, ha="right")
    axes.set(ylabel="error amplification $D_l$", ylim=(0, None))
    axes.legend()
    return _write(figure, path)
