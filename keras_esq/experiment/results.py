"""The results of an experiment, read from its folder: counts by model and seed."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from pathlib import Path
from typing import Any

from keras_esq import _toml
from keras_esq.evaluation.intervals import paired_interval, wilson_interval
from keras_esq.experiment.config import Config, config_from
from keras_esq.experiment.evaluate import RESULTS, WORST
from keras_esq.experiment.recipe import Recipe
from keras_esq.experiment.train import HISTORY, SECONDS

CONFIG = "config.toml"


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of images, seed by seed.

    Attributes:
        counts: (right, of how many) of each seed.
    """

    counts: tuple[tuple[int, int], ...]

    @property
    def mean(self) -> float:
        """Over the seeds, in %."""
        return 100 * statistics.mean(right / n for right, n in self.counts)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, in points; None of a single one."""
        if len(self.counts) < 2:
            return None
        return 100 * statistics.stdev(right / n for right, n in self.counts)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of all seeds' images together, in %."""
        right, n = (sum(one) for one in zip(*self.counts, strict=True))
        low, high = wilson_interval(right, n)
        return 100 * low, 100 * high

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.spread is None else f" ± {self.spread:.1f}")


@dataclasses.dataclass(frozen=True)
class Lead:
    """How far a model is above another on the same images.

    Attributes:
        differences: of each seed, image by image: 1, 0 or -1.
    """

    differences: tuple[tuple[int, ...], ...]

    @property
    def means(self) -> tuple[float, ...]:
        """Of each seed, in points."""
        return tuple(100 * statistics.mean(one) for one in self.differences)

    @property
    def interval(self) -> tuple[float, float]:
        """Paired 95 % interval of the mean over the seeds' networks, in points: images are the sample, not seeds."""
        low, high = paired_interval([statistics.mean(one) for one in zip(*self.differences, strict=True)])
        return 100 * low, 100 * high

    def __str__(self) -> str:
        low, high = self.interval
        return f"{statistics.mean(self.means):+.1f} ({low:+.1f} to {high:+.1f})"


@dataclasses.dataclass(frozen=True)
class Results:
    """All that was measured.

    Attributes:
        config: the experiment.
        seeds: those that are evaluated.
        parts: {model: {part of the evaluation: {seed: what `Evaluator` kept}}}.
        seconds: {model: seconds of its training, validation included, the mean of the seeds}, of those that were timed.
    """

    config: Config
    seeds: tuple[int, ...]
    parts: dict[str, dict[str, dict[int, Any]]]
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def models(self) -> list[Recipe]:
        """The recipes of the models that have results."""
        return [recipe for recipe in self.config.models if recipe.name in self.parts]

    @property
    def fewer_seeds(self) -> str:
        """A sentence that names the models of fewer seeds; empty if there is none."""
        fewer = [f"{one.name} {one.seeds}" for one in self.models if 0 < one.seeds < len(self.seeds)]
        return f"Of fewer seeds: {', '.join(fewer)}." if fewer else ""

    def of(self, model: str, part: str) -> dict[int, Any]:
        """A part's results by seed; empty if it was not measured."""
        return self.parts.get(model, {}).get(part, {})

    def having(self, part: str) -> list[Recipe]:
        """The recipes of the models that have this part."""
        return [recipe for recipe in self.models if self.of(recipe.name, part)]

    def share(self, model: str, attack: str, part: str = "attacks") -> Share | None:
        """Accuracy under an attack, None if it was not measured."""
        found = [(one["correct"].get(attack), one["n"]) for one in self.of(model, part).values()]
        return Share(tuple(found)) if found and all(right is not None for right, _ in found) else None

    def lead(self, model: str, other: str, attack: str, part: str = "attacks") -> Lead | None:
        """`model` over `other` under an attack whose masks were kept, of the seeds that both have; None without any."""
        ours, theirs = self.of(model, part), self.of(other, part)
        pairs = [
            (ours[seed]["robust"][attack], theirs[seed]["robust"][attack])
            for seed in sorted(ours.keys() & theirs.keys())
            if attack in ours[seed].get("robust", {}) and attack in theirs[seed].get("robust", {})
        ]
        if not pairs:
            return None
        return Lead(tuple(tuple(int(a) - int(b) for a, b in zip(*pair, strict=True)) for pair in pairs))

    def clean(self, model: str) -> Share | None:
        """Accuracy without attack."""
        return self.share(model, "clean")

    def worst(self, model: str) -> Share | None:
        """Accuracy under the worst of the white-box attacks, sample by sample: of those in L-inf, if there are any."""
        return self.share(model, WORST["linf"]) or self.share(model, WORST["l2"])

    def size(self, model: str) -> dict[str, Any]:
        """Bits and bytes."""
        return next(iter(self.of(model, "size").values()))


def read_results(out: str | os.PathLike[str], seeds: int | None = None) -> Results:
    """The results in an experiment's folder.

    Args:
        out: the folder.
        seeds: just so many; None for all whose models are all evaluated, or if there is none, for all.

    Raises:
        FileNotFoundError: if it is none.
    """
    out = Path(out)
    path = out / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"Expected the folder of an experiment. Received {str(out)!r}, which has no {CONFIG}.")
    config = config_from(_toml.loads(path.read_text(encoding="utf-8")))
    there = sorted(int(folder.name.removeprefix("seed-")) for folder in out.glob("seed-*"))
    files = {
        seed: {one.name: _read(out / f"seed-{seed}" / one.name / RESULTS) for one in config.models} for seed in there
    }
    complete = [seed for seed in there if all("attacks" in files[seed][one.name] for one in config.of_seed(seed))]
    chosen = (complete or there) if seeds is None else [seed for seed in there if seed < seeds]
    parts: dict[str, dict[str, dict[int, Any]]] = {}
    for recipe in config.models:
        for seed in chosen:
            for part, kept in files[seed][recipe.name].items():
                if part in ("size", "attacks", *config.evaluation.parts):
                    parts.setdefault(recipe.name, {}).setdefault(part, {})[seed] = kept["result"]
    seconds: dict[str, float] = {}
    for recipe in config.models:
        timed = [_seconds(out / f"seed-{seed}" / recipe.name / HISTORY) for seed in chosen if recipe.has_seed(seed)]
        if timed and None not in timed:
            seconds[recipe.name] = statistics.mean(one for one in timed if one is not None)
    return Results(config=config, seeds=tuple(chosen), parts=parts, seconds=seconds)


def _seconds(path: Path) -> float | None:
    rows = json.loads(path.read_text()) if path.is_file() else []
    return sum(row[SECONDS] for row in rows) if rows and all(SECONDS in row for row in rows) else None


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
