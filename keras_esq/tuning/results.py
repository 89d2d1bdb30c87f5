"""The results of a search, read from its folder: also while it runs, and by any of its processes."""

from __future__ import annotations

import dataclasses
import json
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_esq._files import write_atomic
from keras_esq._text import aligned
from keras_esq.tuning.goals import FILE_BYTES, Goal, pareto, score_name
from keras_esq.tuning.outcome import COMPLETED, FAILED, Outcome, read_outcome

RUNNING = "running"
# Hyperband's own, of no use in a table.
_BOOKKEEPING = ("tuner/initial_epoch", "tuner/bracket", "tuner/round")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialResult:
    """One trial.

    Attributes:
        trial_id: as in the folder's name.
        status: "completed", "failed", "over budget" or "running".
        values: of the settings that were searched, by name.
        metrics: of the best epoch, with `file_bytes`.
        score: by which trials are compared: the objective, or with several the weighted sum of their costs; None
            unless completed.
        best_epoch: counted from 1; 0 if there is none.
        reason: why it failed; empty for others.
        folder: with `best.keras`, the weights of the best epoch.
    """

    trial_id: str
    status: str
    values: dict[str, Any]
    metrics: dict[str, float]
    score: float | None
    best_epoch: int
    reason: str
    folder: Path


@dataclasses.dataclass(frozen=True)
class SearchResults:
    """All trials of a search, best first, then those that failed. `str()` of it is the table."""

    goals: tuple[Goal, ...]
    trials: tuple[TrialResult, ...]

    @property
    def completed(self) -> tuple[TrialResult, ...]:
        """The trials with a score, best first."""
        return tuple(trial for trial in self.trials if trial.score is not None)

    @property
    def best(self) -> TrialResult:
        """The trial with the best score.

        Raises:
            ValueError: if none was completed.
        """
        if not self.completed:
            raise ValueError(
                f"Expected at least one completed trial. Found {self.counts()}. See the reasons in the table: "
                "print(tuner.results())."
            )
        return self.completed[0]

    def counts(self) -> dict[str, int]:
        """{status: number of trials}."""
        statuses = [trial.status for trial in self.trials]
        return {status: statuses.count(status) for status in dict.fromkeys(statuses)}

    def pareto(self) -> tuple[TrialResult, ...]:
        """The completed trials that no other beats: as good in every objective and better in one. Best score first."""
        kept = pareto(self.goals, [trial.metrics for trial in self.completed])
        return tuple(trial for trial, keep in zip(self.completed, kept, strict=True) if keep)

    def table(self) -> str:
        """An aligned text table of all trials; * marks the Pareto front of several objectives."""
        front = {trial.trial_id for trial in self.pareto()} if len(self.goals) > 1 else set()
        return _table(self.goals, self.trials, front)

    def pareto_table(self) -> str:
        """An aligned text table of the Pareto front."""
        return _table(self.goals, self.pareto(), set())

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw the completed trials and their Pareto front over the first two objectives; see `plot_pareto`."""
        from keras_esq.tuning.plots import plot_pareto

        return plot_pareto(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        trials = [{**dataclasses.asdict(trial), "folder": str(trial.folder)} for trial in self.trials]
        best = self.completed[0].trial_id if self.completed else None
        front = [trial.trial_id for trial in self.pareto()]
        return {
            "objectives": [dataclasses.asdict(g) for g in self.goals],
            "best": best,
            "pareto": front,
            "trials": trials,
        }

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict` to a file."""
        return write_atomic(path, json.dumps(self.to_dict(), indent=2) + "\n")

    def __str__(self) -> str:
        return self.table()


def _table(goals: tuple[Goal, ...], trials: tuple[TrialResult, ...], front: set[str]) -> str:
    columns = list(dict.fromkeys([*(goal.name for goal in goals), FILE_BYTES]))
    settings = [name for name in dict.fromkeys(n for t in trials for n in t.values) if name not in _BOOKKEEPING]
    header = ["trial", "status", *columns, "epoch", *settings]
    rows = [
        [
            trial.trial_id + ("*" if trial.trial_id in front else ""),
            trial.status,
            *(_number(name, trial.metrics.get(name)) for name in columns),
            trial.best_epoch or "",
            *(_value(trial.values.get(name, "")) for name in settings),
        ]
        for trial in trials
    ]
    reasons = [f"{trial.trial_id}: {textwrap.shorten(trial.reason, 300)}" for trial in trials if trial.reason]
    note = ["* not beaten in all objectives by any other"] if front else []
    return "\n".join([aligned([header, *rows], left=2), *note, *reasons])


def _number(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if name == FILE_BYTES else f"{value:.4f}"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_results(folder: Path, goals: tuple[Goal, ...], trials: Mapping[str, Any]) -> SearchResults:
    """The results of a search.

    Args:
        folder: of the search.
        goals: its objectives.
        trials: {trial id: keras-tuner's Trial}.
    """
    rows = [_row(folder / f"trial_{trial_id}", trial, goals) for trial_id, trial in trials.items()]
    sign = -1.0 if len(goals) == 1 and goals[0].direction == "max" else 1.0
    order = sorted(
        rows, key=lambda row: (row.score is None, 0.0 if row.score is None else sign * row.score, int(row.trial_id))
    )
    return SearchResults(goals, tuple(order))


def _row(folder: Path, trial: Any, goals: tuple[Goal, ...]) -> TrialResult:
    # The worker writes the outcome before the chief takes note of it.
    outcome = read_outcome(folder) if trial.status in ("COMPLETED", "FAILED") else None
    if outcome is None and trial.status == "FAILED":
        outcome = Outcome(status=FAILED, reason=(trial.message or "unknown").strip().splitlines()[-1])
    completed = outcome is not None and outcome.status == COMPLETED
    return TrialResult(
        trial_id=trial.trial_id,
        status=RUNNING if outcome is None else outcome.status,
        values=dict(trial.hyperparameters.values),
        metrics={} if outcome is None else outcome.metrics,
        score=outcome.metrics[score_name(goals)] if outcome is not None and completed else None,
        best_epoch=0 if outcome is None else outcome.best_epoch,
        reason="" if outcome is None else outcome.reason,
        folder=folder,
    )
