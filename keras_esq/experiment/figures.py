"""The paper's figures from the results of an experiment."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from keras_esq.evaluation import AccuracyCurve, AmplificationProfile, TransferMatrix, plot_amplification, plot_transfer
from keras_esq.evaluation.intervals import wilson_interval
from keras_esq.evaluation.plots import new_figure, write_figure
from keras_esq.experiment.results import Results
from keras_esq.experiment.tables import transferred


def make_figures(results: Results, out: Path) -> dict[str, Path]:
    """Draw the figures that the results suffice for; {title: path}."""
    made: dict[str, Path] = {}
    for title, name, draw in (
        ("Figure 1. Error amplification by layer", "figure1.png", _amplification),
        ("Figure 2. Accuracy by eps of a white-box attack", "figure2.png", _curves),
        ("Figure 3. Accuracy under black-box attacks by their strength in L2", "figure3.png", _black_box),
        ("Table 3b as a picture", "table3b.png", _transfer),
        ("Robust accuracy by the bytes of the weights", "pareto.png", _pareto),
    ):
        if draw(results, out / name):
            made[title] = out / name
    return made


def _mean(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.mean(one[key] for one in found) for key in found[0]}


def _amplification(results: Results, path: Path) -> bool:
    profiles = {}
    for recipe in results.having("amplification"):
        found = list(results.of(recipe.name, "amplification").values())
        mean, std = _mean([one["mean"] for one in found]), _mean([one["std"] for one in found])
        profiles[recipe.name] = AmplificationProfile(
            mean=mean, std=std, undefined=found[0]["undefined"], n=found[0]["n"]
        )
    if profiles:
        plot_amplification(profiles, path)
    return bool(profiles)


def curves(results: Results) -> dict[str, AccuracyCurve]:
    """Accuracy by eps, all seeds' images together."""
    made = {}
    for recipe in results.having("curve"):
        found = list(results.of(recipe.name, "curve").values())
        eps = found[0]["eps"]
        correct = [sum(one["correct"][f"{radius:.4g}"] for one in found) for radius in eps]
        made[recipe.name] = AccuracyCurve(
            target=recipe.name,
            attack=results.config.evaluation.parts["curve"].attack["attack"],
            eps=(0.0, *eps),
            # What fell within a ball falls within larger ones, which contain it.
            correct=tuple(np.minimum.accumulate([sum(one["correct"]["clean"] for one in found), *correct]).tolist()),
            n=sum(one["n"] for one in found),
        )
    return made


def _curves(results: Results, path: Path) -> bool:
    lines = {name: (curve.eps, curve.correct, curve.n) for name, curve in curves(results).items()}
    if lines:
        attack = results.config.evaluation.parts["curve"].attack["attack"]
        figure = new_figure(6.5, 4.2)
        _draw(figure.add_subplot(), lines, f"eps of {attack} (input units)")
        write_figure(figure, path)
    return bool(lines)


def _black_box(results: Results, path: Path) -> bool:
    models = results.having("blackbox")
    if not models:
        return False
    figure = new_figure(10.0, 4.2)
    axes = figure.subplots(1, 2, sharey=True)
    for one, attack in zip(axes, ("Boundary", "N-Attack"), strict=True):
        lines = {}
        for recipe in models:
            found = list(results.of(recipe.name, "blackbox").values())
            n, clean = sum(kept["n"] for kept in found), sum(kept["clean"] for kept in found)
            right = [sum(kept[attack][place] for kept in found) for place in range(len(found[0]["eps"]))]
            lines[recipe.name] = ((0.0, *found[0]["eps"]), (clean, *right), n)
        _draw(one, lines, f"strength of {attack} in L2 (input units)")
    write_figure(figure, path)
    return True


# Twice as many looks as colours, for up to 20 models.
_MARKS = ("o", "s")


def _draw(axes: Any, lines: dict[str, tuple[Any, Any, int]], label: str) -> None:
    """Lines {model: (eps, samples right, of how many)} with 95 % intervals."""
    for number, (name, (eps, correct, n)) in enumerate(lines.items()):
        bounds = 100 * np.array([wilson_interval(right, n) for right in correct])
        mark = _MARKS[number // 10 % 2]
        (line,) = axes.plot(eps, [100 * right / n for right in correct], marker=mark, markersize=4, label=name)
        axes.fill_between(eps, bounds[:, 0], bounds[:, 1], color=line.get_color(), alpha=0.1)
    axes.set(ylim=(-2, 102), xlabel=label, ylabel="accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _transfer(results: Results, path: Path) -> bool:
    names = [recipe.name for recipe in results.having("transfer")]
    if not names:
        return False

    def share(source: str, target: str, kind: str) -> float:
        found = transferred(results, source, target, kind)
        return float("nan") if found is None else found.mean / 100

    matrix = TransferMatrix(
        sources=tuple(names),
        targets=tuple(names),
        accuracy=np.array([[share(source, target, "accuracy") for target in names] for source in names]),
        clean=np.array([share(names[0], target, "clean") for target in names]),
        attack=str(results.config.evaluation.parts["transfer"].attack),
        n=next(iter(results.of(names[0], "transfer").values()))["n"],
    )
    plot_transfer(matrix, path)
    return True


def _pareto(results: Results, path: Path) -> bool:
    """The models by bytes and accuracy: under the strong attack if all were tried, else the worst white-box one."""
    strong = "ensemble" if results.having("ensemble") == results.having("attacks") else ""
    models = results.having(strong or "attacks")
    sizes = {recipe.name: results.size(recipe.name)["kernel_bytes"] for recipe in models}
    if len(set(sizes.values())) < 2:
        return False
    attack = results.config.evaluation.parts[strong].attack["attack"] if strong else ""
    found = {name: results.share(name, attack, strong) if strong else results.worst(name) for name in sizes}
    shares = {name: share for name, share in found.items() if share is not None}
    fallen = _low({name: share.mean for name, share in shares.items()})
    shares = {name: share for name, share in shares.items() if name not in fallen}
    figure = new_figure(8.0, 5.0)
    axes = figure.add_subplot()
    if fallen:
        values = ", ".join(f"{name} {mean:.1f}" for name, mean in fallen.items())
        axes.set_title(f"below half of the best, not shown: {values}", fontsize=8, loc="left", wrap=True)
    kinds: dict[str, list[str]] = {}
    for name in shares:
        kinds.setdefault(results.config.recipe(name).weights or "float", []).append(name)
    for kind, names in kinds.items():
        axes.scatter([sizes[name] for name in names], [shares[name].mean for name in names], label=kind, zorder=2)
    front = _front({name: (sizes[name], share.mean) for name, share in shares.items()})
    axes.step(
        *zip(*front.values(), strict=True), where="post", color="gray", linewidth=1, label="Pareto front", zorder=1
    )
    for number, (name, (size, mean)) in enumerate(front.items()):
        low, high = shares[name].interval
        axes.errorbar(size, mean, [[max(mean - low, 0)], [max(high - mean, 0)]], color="gray", capsize=3, zorder=1)
        # Neighbours are near each other: one name below its point, the next one above.
        axes.annotate(name, (size, mean), (5, 5 if number % 2 else -11), textcoords="offset points", fontsize=8)
    # Float networks, rounded ones too, are what the others are compared with, wherever they stand.
    for name in {*kinds.get("float", ()), *kinds.get("int8", ())} - set(front):
        axes.annotate(name, (sizes[name], shares[name].mean), (5, -11), textcoords="offset points", fontsize=8)
    axes.margins(x=0.15)
    axes.set(
        xscale="log",
        xlabel="bytes of the kernels and their scales",
        ylabel=f"accuracy (%) under {attack or 'the worst white-box attack'}",
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(kinds) + 1, fontsize=8)
    write_figure(figure, path)
    return True


def _low(means: dict[str, float]) -> dict[str, float]:
    """Those of {name: accuracy} below half of the best: drawn, they would press all others together."""
    return {name: mean for name, mean in means.items() if mean < max(means.values()) / 2}


def _front(points: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Those of {name: (bytes, accuracy)} that no smaller one equals, the smallest first."""
    front: dict[str, tuple[float, float]] = {}
    for name, (size, accuracy) in sorted(points.items(), key=lambda one: (one[1][0], -one[1][1])):
        if not front or accuracy > max(best for _, best in front.values()):
            front[name] = (size, accuracy)
    return front
