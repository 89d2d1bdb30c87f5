"""keras-tuner's oracles, which choose what to try, made to survive a SIGKILL at any moment.

keras-tuner writes its files in place, so that a kill can leave half of one; resumes trials that were done, and loses
ones that were begun, between two of its files; a grid search is over when it is resumed; and trials that fail leave
Hyperband's rounds short for good.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_esq._files import write_atomic
from keras_esq.tuning._keras_tuner import kt
from keras_esq.tuning.outcome import OVER_BUDGET, read_outcome

# keras-tuner's own limit counts trials over the budget as failures; ours does not, and is applied here.
NO_LIMIT = 10**9
# So many draws over the budget in a row are taken to mean that next to nothing fits.
MAX_OVER_BUDGET = 100
STOPPED: dict[str, Any] = {"status": "STOPPED", "values": None}
_DONE = ("COMPLETED", "FAILED")


class Resumable:
    """To be mixed in before an oracle of keras-tuner.

    Attributes:
        folder: that of the search, shared by chief and workers; set by the tuner.
        max_failures: so many trials failing in a row end the search; those over the budget don't count.
    """

    folder: Path
    max_failures: int = 3
    # Trials of an earlier process: whoever resumes a search may have mended what made them fail.
    ended_before: int = 0
    # keras-tuner's, for whoever reads this.
    trials: dict[str, Any]
    start_order: list[str]
    end_order: list[str]
    ongoing_trials: dict[str, Any]

    # keras-tuner has no public names for where an oracle keeps its own and its trials' files:
    # a test fails if these move.

    def save(self) -> None:
        """As Oracle.save, whole or not at all."""
        write_atomic(self._get_oracle_fname(), json.dumps(self.get_state()))  # type: ignore[attr-defined]

    def _save_trial(self, trial: Any) -> None:
        folder = self._get_trial_dir(trial.trial_id)  # type: ignore[attr-defined]
        write_atomic(os.path.join(folder, "trial.json"), json.dumps(trial.get_state()))

    def set_state(self, state: dict[str, Any]) -> None:
        """As Oracle.set_state, with what a kill left inconsistent put right; called when a search is resumed."""
        # Begun, but not yet in the oracle's state: it will be drawn again, with the same values.
        for trial_id in set(self.trials) - set(state["start_order"]):
            del self.trials[trial_id]
        known = [trial_id for trial_id in state["start_order"] if trial_id in self.trials]
        done = [trial_id for trial_id in known if self.trials[trial_id].status in _DONE]
        running = [trial_id for trial_id in known if trial_id not in done]
        for trial_id in running:
            # Metrics of a run that was not finished would be taken for those of the next.
            self.trials[trial_id].metrics = type(self.trials[trial_id].metrics)()
        late = [trial_id for trial_id in done if trial_id not in state["end_order"]]
        state = {
            **state,
            "start_order": known,
            "end_order": [trial_id for trial_id in state["end_order"] if trial_id in done] + late,
            "ongoing_trials": {},
            # A stack: the last one is run first.
            "retry_queue": running[::-1],
        }
        super().set_state(state)  # type: ignore[misc]
        self.ended_before = len(self.end_order)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """As Oracle.populate_space; no more trials after too many failures."""
        return STOPPED if self.gave_up() else super().populate_space(trial_id)  # type: ignore[misc]

    def gave_up(self) -> bool:
        """Whether too many trials in a row failed, or were over the budget."""
        return self.failures_in_a_row() >= self.max_failures or self.over_budget_in_a_row() >= MAX_OVER_BUDGET

    def is_over_budget(self, trial_id: str) -> bool:
        """Whether the trial ended for its size."""
        outcome = read_outcome(self.folder / f"trial_{trial_id}")
        return outcome is not None and outcome.status == OVER_BUDGET

    def failures_in_a_row(self) -> int:
        """Trials that failed since the last that did not; those over the budget are left out."""
        return sum(1 for _ in self._latest("FAILED", over_budget=False))

    def over_budget_in_a_row(self) -> int:
        """Trials over the budget since the last that was not."""
        return sum(1 for _ in self._latest("FAILED", over_budget=True))

    def _latest(self, status: str, over_budget: bool) -> Iterator[str]:
        for trial_id in reversed(self.end_order[self.ended_before :]):
            failed = self.trials[trial_id].status == status
            if failed and self.is_over_budget(trial_id) == over_budget:
                yield trial_id
            elif not failed or over_budget:
                return


class RandomOracle(Resumable, kt.oracles.RandomSearchOracle):
    """Random search."""


class BayesianOracle(Resumable, kt.oracles.BayesianOptimizationOracle):
    """Bayesian optimization."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """As the base class, with random numbers that a resumed search shares with an uninterrupted one."""
        # Not part of keras-tuner's saved state; a test of resumption fails if it moves.
        self._random_state = np.random.RandomState((self.seed + len(self.trials)) % 2**32)
        return super().populate_space(trial_id)


class HyperbandOracle(Resumable, kt.oracles.HyperbandOracle):
    """Hyperband."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """As the base class; failed trials of a first round are replaced, as it would stay short without them."""
        for bracket in self.get_state()["brackets"]:
            first = bracket["rounds"][0]
            first[:] = [entry for entry in first if self.trials[entry["id"]].status != "FAILED"]
        return super().populate_space(trial_id)


class GridOracle(Resumable, kt.Oracle):
    """Every combination of values, in order, defaults first; the last setting changes fastest.

    Ranges are tried at ten values, or at all if they are of whole numbers.
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The first combination that was not tried."""
        if self.gave_up():
            return STOPPED
        tried = {_key(trial.hyperparameters.values) for trial in self.trials.values()}
        for values in grid(self.get_space()):
            if _key(values) not in tried:
                return {"status": "RUNNING", "values": values}
        # A trial that runs may still find new settings.
        return {"status": "IDLE" if self.ongoing_trials else "STOPPED", "values": None}


def _key(values: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Values as something to compare by; a float32 on the way from worker to chief rounds them."""
    text = {name: f"{value:.5g}" if isinstance(value, float) else repr(value) for name, value in values.items()}
    return tuple(sorted(text.items()))


def grid(hp: Any) -> Iterator[dict[str, Any]]:
    """All combinations of the active settings of a HyperParameters, its `values` used as scratch space."""
    space = list(hp.space)

    def walk(index: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if index == len(space):
            yield dict(values)
            return
        hp.values = values
        if not hp.is_active(space[index]):
            yield from walk(index + 1, values)
            return
        for value in _ordered(space[index]):
            yield from walk(index + 1, {**values, space[index].name: value})
            hp.values = values

    yield from walk(0, {})


def _ordered(setting: Any) -> list[Any]:
    """The default, then the others; numbers in rising order."""
    values = list(setting.values)
    if not hasattr(setting, "ordered"):  # a range: keras-tuner lists its values in no order
        with contextlib.suppress(TypeError):
            values.sort()
    return [setting.default, *(value for value in values if value != setting.default)]
