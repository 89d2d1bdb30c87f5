"""What the tuners share: a trial is built, measured, trained and kept with tf-keras.

keras-tuner's own tuners bind to Keras 3 and refuse tf-keras models; its BaseTuner leaves all of that to `run_trial`.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from keras_esq._checks import check_count, check_seed
from keras_esq._files import make_folder, write_atomic
from keras_esq._keras import keras
from keras_esq.quantize import low_bit_weights, set_ratio
from keras_esq.tuning._keras_tuner import kt, without_tracebacks
from keras_esq.tuning.checkpoints import KeepBestEpoch, load_state
from keras_esq.tuning.goals import FILE_BYTES, Goal, as_goals, score_name
from keras_esq.tuning.oracles import NO_LIMIT
from keras_esq.tuning.outcome import (
    BEST,
    COMPLETED,
    FAILED,
    LAST,
    OVER_BUDGET,
    Outcome,
    clear,
    write_outcome,
)
from keras_esq.tuning.record import check_same, describe_space, read_record, write_record
from keras_esq.tuning.results import RUNNING, SearchResults, TrialResult, read_results
from keras_esq.tuning.roles import WORKER, role, tuner_id
from keras_esq.tuning.sizes import float_bytes, packed_bytes, size_name
from keras_esq.tuning.verdict import check_verdict

OBJECTIVE = "val_adversarial_accuracy"
PROJECT = "search"
# Between two questions of a worker that the chief has no trial for.
_PATIENCE_SECONDS = 0.5


class Common(TypedDict, total=False):
    """The arguments that all tuners take; see `RandomSearch`."""

    objective: Any
    max_bytes: int | None
    size: Callable[[Any], int]
    seed: int | None
    directory: str | os.PathLike[str]
    project_name: str
    overwrite: bool
    max_failures: int


class OverBudgetError(kt.errors.FailedTrialError):
    """A trial's model is larger than `max_bytes`."""

    def __init__(self, file_bytes: int, max_bytes: int) -> None:
        super().__init__(f"{file_bytes:,} bytes, over the budget of {max_bytes:,}; not trained")
        self.file_bytes = file_bytes


class TfKerasTuner(kt.engine.base_tuner.BaseTuner):
    """Base of the tuners; see `RandomSearch` for what they have in common.

    Args:
        make_oracle: keywords of keras-tuner's Oracle -> the oracle.
        hypermodel: see `RandomSearch`.
        settings: those of the search besides the common ones, by which it is recognized in its folder.
        Others: see `RandomSearch`.
    """

    # Whether later trials go on from the weights of earlier ones.
    continues = False

    def __init__(
        self,
        make_oracle: Callable[..., Any],
        hypermodel: Any,
        *,
        settings: dict[str, Any],
        objective: Any = OBJECTIVE,
        max_bytes: int | None = None,
        size: Callable[[Any], int] = packed_bytes,
        seed: int | None = None,
        directory: str | os.PathLike[str] = ".",
        project_name: str = PROJECT,
        overwrite: bool = False,
        max_failures: int = 3,
    ) -> None:
        # Networks can be called too.
        if hasattr(hypermodel, "layers") or not (isinstance(hypermodel, kt.HyperModel) or callable(hypermodel)):
            raise TypeError(
                "Expected a hypermodel such as esq.tuning.RobustHyperModel(build_fn), or a function (hp) -> compiled "
                f"tf-keras model. Received {hypermodel!r} of type {type(hypermodel).__name__}."
            )
        if not callable(size):
            raise TypeError(f"Expected size as a function (model) -> bytes. Received {size!r}.")
        self.goals: tuple[Goal, ...] = as_goals(objective)
        self.max_bytes = None if max_bytes is None else check_count("max_bytes", max_bytes)
        self.max_failures = check_count("max_failures", max_failures)
        self.size = size
        self.folder = Path(directory) / project_name
        model, hp = _probe(hypermodel)
        # One unit for all trials, or a larger network would seem the smaller one.
        self.byte_scale = float(float_bytes(model))
        record = {
            "tuner": type(self).__name__,
            "objective": [[g.name, g.direction, g.weight] for g in self.goals],
            "max_bytes": self.max_bytes,
            "size": size_name(size),
            **settings,
            "space": describe_space(hp),
        }
        self.seed = self._enter(record, None if seed is None else check_seed("seed", seed), overwrite)
        objectives = [kt.Objective(g.name, g.direction) for g in self.goals]
        oracle = make_oracle(
            objective=objectives[0] if len(objectives) == 1 else objectives,
            # keras-tuner takes 0 for no seed.
            seed=(self.seed or 0) + 1,
            max_consecutive_failed_trials=NO_LIMIT,
        )
        oracle.folder, oracle.max_failures = self.folder, self.max_failures
        self._asked = False
        super().__init__(oracle, hypermodel, directory=str(directory), project_name=project_name)

    def _enter(self, record: dict[str, Any], seed: int | None, overwrite: bool) -> int | None:
        """Claim the folder, or recognize it; returns the seed, None for a worker that has to ask later."""
        if role() == WORKER:
            return seed
        if overwrite and self.folder.exists():
            shutil.rmtree(self.folder)
        found = read_record(self.folder)
        if found is None:
            seed = random.SystemRandom().randrange(2**31 - 1) if seed is None else seed
            make_folder(self.folder, "directory/project_name")
            write_record(self.folder, {"seed": seed, **record})
            return seed
        check_same(self.folder, found, record if seed is None else {"seed": seed, **record})
        # keras-tuner resumes by its tuner's file, which is absent if the first trial was killed or the search was
        # begun by a tuner of another name, such as a chief.
        mark = self.folder / f"{tuner_id()}.json"
        if (self.folder / "oracle.json").exists() and not mark.exists():
            write_atomic(mark, "{}")
        return int(found["seed"])

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Run trials until the search is over; goes on with an interrupted search.

        A search is interrupted by any end of its process. The trial that ran then is run again from its beginning,
        with the same seed. In keras-tuner's distributed mode the chief hands out trials and the workers run them.

        Args:
            fit_args, fit_kwargs: of `fit`: x, y, validation_data, epochs, batch_size, callbacks (copied for each
                trial), verbose (0 also silences keras-tuner) and so on.

        Raises:
            ValueError: for an objective on validation data without validation_data; if no trial was within
                `max_bytes`; if the training does not report an objective.
            RuntimeError: if `max_failures` trials in a row failed, with the last one's reason.
        """
        self._check_arguments(fit_kwargs)
        before = {trial.trial_id for trial in self.results().trials if trial.status != RUNNING}
        with without_tracebacks():
            super().search(*fit_args, **fit_kwargs)
        check_verdict(self.results(), before, self.max_bytes, self.max_failures)

    def _check_arguments(self, fit_kwargs: dict[str, Any]) -> None:
        on_validation = self._on_validation()
        if on_validation and all(fit_kwargs.get(name) is None for name in ("validation_data", "validation_split")):
            raise ValueError(
                f"Expected validation data for the objectives {on_validation}. Received none. Pass "
                "search(x, y, validation_data=(x_val, y_val))."
            )

    def _on_validation(self) -> list[str]:
        return [goal.name for goal in self.goals if goal.name.startswith("val_")]

    def run_trial(self, trial: Any, *fit_args: Any, **fit_kwargs: Any) -> dict[str, float]:
        """Build, measure and train the model of a trial; called by keras-tuner.

        Returns:
            The metrics of the best epoch, with `file_bytes` and the score.
        """
        folder = Path(self.get_trial_dir(trial.trial_id))
        clear(folder)
        try:
            outcome = self._train(trial.hyperparameters, folder, fit_args, fit_kwargs)
        except Exception as error:
            outcome = _failure(error)
            write_outcome(folder, outcome)
            print(f"Trial {trial.trial_id}, {outcome.status}: {outcome.reason}", file=sys.stderr)
            raise
        write_outcome(folder, outcome)
        return outcome.metrics

    def _train(self, hp: Any, folder: Path, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]) -> Outcome:
        model = self._build(hp)
        file_bytes = check_count("the result of size(model)", self.size(model))
        if self.max_bytes is not None and file_bytes > self.max_bytes:
            raise OverBudgetError(file_bytes, self.max_bytes)
        if "tuner/trial_id" in hp.values:
            load_state(model, Path(self.get_trial_dir(hp.values["tuner/trial_id"])) / LAST)
        gaps = bool(self._on_validation()) and fit_kwargs.get("validation_freq", 1) != 1
        keep = KeepBestEpoch(folder, self.goals, file_bytes, self.byte_scale, self.continues, gaps)
        callbacks = [*copy.deepcopy(list(fit_kwargs.get("callbacks") or [])), keep]
        self.hypermodel.fit(hp, model, *fit_args, **{**fit_kwargs, "callbacks": callbacks})
        if gaps and not keep.compared:
            raise kt.errors.FatalValueError(
                "Expected at least one epoch with validation in a trial. Received "
                f"validation_freq={fit_kwargs['validation_freq']!r}, by which there was none. Lower it."
            )
        if keep.metrics is None:
            raise kt.errors.FailedTrialError(
                f"Expected a number for {score_name(self.goals)}. It was NaN in every epoch: the training diverged."
            )
        return Outcome(status=COMPLETED, metrics=keep.metrics, best_epoch=keep.best_epoch)

    def _build(self, hp: Any) -> Any:
        """The model for these values, always from the same random numbers: trials differ by their values only."""
        keras.backend.clear_session()
        gc.collect()
        first_epoch = int(hp.values.get("tuner/initial_epoch", 0))
        keras.utils.set_random_seed((self._known_seed() + first_epoch) % 2**31)
        return _check_model(self.hypermodel.build(hp))

    def _known_seed(self) -> int:
        if self.seed is None:  # a worker, for which the chief drew it
            record = read_record(self.folder)
            if record is None:
                raise kt.errors.FatalValueError(
                    f"Expected the chief's record of the search in {str(self.folder)!r}. Found none. Chief and workers "
                    "need one directory on a file system that they share."
                )
            self.seed = int(record["seed"])
        return self.seed

    def results(self) -> SearchResults:
        """All trials so far, best first; `print` shows the table. Read from the folder, in any process."""
        return read_results(self.folder, self.goals, self._trials())

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """The models of the best trials, best first, with the weights of their best epochs; compiled.

        Args:
            num_models: how many at most.

        Raises:
            ValueError: if no trial was completed.
        """
        trials = self._trials()
        return [self.load_model(trials[result.trial_id]) for result in self._best(num_models)]

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[Any]:
        """The keras-tuner HyperParameters of the best trials, best first. Raises as `get_best_models`."""
        trials = self._trials()
        return [trials[result.trial_id].hyperparameters for result in self._best(num_trials)]

    def load_model(self, trial: Any) -> Any:
        """The model of a completed trial with the weights of its best epoch."""
        model = load_state(self._build(trial.hyperparameters), Path(self.get_trial_dir(trial.trial_id)) / BEST)
        if low_bit_weights(model):
            set_ratio(model, 1.0)
        return model

    def _best(self, n: int) -> tuple[TrialResult, ...]:
        check_count("the number of trials", n)
        results = self.results()
        return (results.best, *results.completed[1:])[:n]

    def _trials(self) -> dict[str, Any]:
        """The trials by id, from their files: a worker has no oracle, and the chief may be gone."""
        trials = map(kt.engine.trial.Trial.load, map(str, self.folder.glob("trial_*/trial.json")))
        return {trial.trial_id: trial for trial in sorted(trials, key=lambda trial: int(trial.trial_id))}

    # Hooks of keras-tuner.

    def pre_create_trial(self) -> None:
        """Called before a trial is asked for: wait a little if the last answer was that there is none yet."""
        if self._asked:
            time.sleep(_PATIENCE_SECONDS)
        self._asked = True

    def on_trial_begin(self, trial: Any) -> None:
        """Called when a trial was handed out."""
        self._asked = False
        super().on_trial_begin(trial)

    def save(self) -> None:
        """As BaseTuner.save, whole or not at all."""
        if role() != WORKER:
            self.oracle.save()
        write_atomic(self.folder / f"{self.tuner_id}.json", json.dumps(self.get_state()))


def _failure(error: Exception) -> Outcome:
    if isinstance(error, OverBudgetError):
        return Outcome(status=OVER_BUDGET, reason=str(error), metrics={FILE_BYTES: float(error.file_bytes)})
    return Outcome(status=FAILED, reason=f"{type(error).__name__}: {error}")


def _probe(hypermodel: Any) -> tuple[Any, Any]:
    """A model at the default values, and the search space.

    Raises:
        ValueError: if nothing is searched.
    """
    hp = kt.HyperParameters()
    model = _check_model(hypermodel.build(hp) if isinstance(hypermodel, kt.HyperModel) else hypermodel(hp))
    if not hp.space:
        raise ValueError(
            "Expected a search space with at least one setting. Received an empty one: every setting is fixed. Give "
            "one of them choices or a Range, for example learning_rate=esq.tuning.Range(1e-4, 1e-2, log=True)."
        )
    return model, hp


def _check_model(model: Any) -> Any:
    if not isinstance(model, keras.Model) or model.optimizer is None:
        kind = f"{type(model).__module__}.{type(model).__name__}"
        what = "one that is not compiled" if isinstance(model, keras.Model) else kind
        raise kt.errors.FatalTypeError(
            f"Expected the hypermodel to build a compiled tf-keras model. Received {what}. Pass a float network or a "
            "function that builds one as esq.tuning.RobustHyperModel(build_fn), which does the rest."
        )
    return model
