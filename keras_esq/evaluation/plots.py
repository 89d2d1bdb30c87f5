"""Pictures of reports and profiles; matplotlib is imported only when one is drawn, and needs no display."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_esq._files import write_atomic
from keras_esq.evaluation.intervals import wilson_interval

if TYPE_CHECKING:
    from keras_esq.evaluation.amplification import AmplificationProfile
    from keras_esq.evaluation.curve import AccuracyCurve
    from keras_esq.evaluation.report import RobustnessReport
    from keras_esq.evaluation.transfer import TransferMatrix


# Largest over smallest mean from which an axis of amplification is logarithmic.
LOG_FROM = 10


def new_figure(width: float, height: float) -> Any:
    """An empty figure of that size in inches."""
    # A Figure of its own, not pyplot's: no global state, no window, no choice of backend.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _figure(width: float, height: float) -> tuple[Any, Any]:
    figure = new_figure(width, height)
    return figure, figure.add_subplot()


def write_figure(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Write `figure` to `path`, whole or not at all, in the format of the suffix or PNG."""
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
    return write_figure(figure, path)


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
    means = [value for profile in profiles.values() for value in profile.mean.values() if value > 0]
    if means and max(means) > LOG_FROM * min(means):  # else all but the largest lie on the axis
        axes.set_yscale("log")
        axes.set_ylim(min(means) / 2, None)
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0, None)
    axes.set_ylabel("error amplification $D_l$")
    axes.legend()
    return write_figure(figure, path)


def plot_accuracy_curve(curves: Mapping[str, AccuracyCurve], path: str | os.PathLike[str]) -> Path:
    """Draw accuracy against eps with 95 % intervals; a curve that stays above 0 at its end is marked in red.

    Args:
        curves: {label: curve from `accuracy_curve`}, all in one norm.
        path: file to write; PNG unless the suffix names another format of matplotlib.

    Raises:
        OSError: if `path` can't be written.
        ValueError: if there is no curve or matplotlib doesn't know the format.
    """
    if not curves:
        raise ValueError("Expected at least one curve {label: curve}. Received none.")
    figure, axes = _figure(6.0, 4.0)
    smallest = min(curve.eps[1] for curve in curves.values())
    # Doubling radii are evenly spaced, and 0 is there too.
    axes.set_xscale("symlog", base=2, linthresh=smallest, linscale=0.5)
    for label, curve in curves.items():
        bounds = 100 * np.array([wilson_interval(k, curve.n) for k in curve.correct])
        (line,) = axes.plot(curve.eps, 100 * curve.accuracy, marker="o", label=f"{label}, {curve.attack}")
        axes.fill_between(curve.eps, bounds[:, 0], bounds[:, 1], color=line.get_color(), alpha=0.15)
        if not curve.reaches_zero:
            end = curve.eps[-1], 100 * float(curve.accuracy[-1])
            axes.plot(*end, marker="o", markersize=12, markeredgewidth=2, markerfacecolor="none", color="red")
            note = f"must reach 0, {end[1]:.0f} % left"
            box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none"}
            axes.annotate(note, end, (-14, -18), textcoords="offset points", ha="right", color="red", bbox=box)
    axes.axhline(0, color="red", linestyle="--", linewidth=1)
    ticks = sorted({eps for curve in curves.values() for eps in curve.eps})
    axes.set_xticks(ticks, [f"{eps:.3g}" for eps in ticks], rotation=45)
    axes.minorticks_off()
    axes.set(ylim=(-3, 103), xlabel="eps (input units)", ylabel="accuracy (%); must reach 0 (red)")
    axes.legend()
    return write_figure(figure, path)


def plot_transfer(matrix: TransferMatrix, path: str | os.PathLike[str]) -> Path:
    """Draw a transfer matrix as a heat map of accuracies in %; dark is robust, grey is a model without a twin.

    Args:
        matrix: from `transfer_matrix`.
        path: file to write; PNG unless the suffix names another format of matplotlib.

    Raises:
        OSError: if `path` can't be written.
        ValueError: if matplotlib doesn't know the format.
    """
    rows, columns = matrix.accuracy.shape
    figure, axes = _figure(2.6 + 0.8 * columns, 1.8 + 0.55 * rows)
    axes.set_facecolor("lightgray")
    picture = axes.imshow(100 * matrix.accuracy, cmap="viridis_r", vmin=0, vmax=100, aspect="auto")
    for row, column in np.ndindex(rows, columns):
        value = 100 * matrix.accuracy[row, column]
        text, colour = ("-", "black") if np.isnan(value) else (f"{value:.1f}", "white" if value > 50 else "black")
        axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(columns), matrix.targets, rotation=30, ha="right")
    axes.set_yticks(range(rows), matrix.sources)
    axes.set(xlabel="tried on", ylabel="made against", title=f"accuracy (%), {matrix.n} samples")
    figure.colorbar(picture)
    return write_figure(figure, path)
