"""The four tuners: keras-tuner's strategies for tf-keras models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras_esq._checks import check_count
from keras_esq.tuning.base import Common, TfKerasTuner
from keras_esq.tuning.oracles import BayesianOracle, GridOracle, HyperbandOracle, RandomOracle

if TYPE_CHECKING:
    from typing_extensions import Unpack


class RandomSearch(TfKerasTuner):
    """Tries values drawn at random.

        tuner = esq.tuning.RandomSearch(esq.tuning.RobustHyperModel(float_model), max_trials=20, directory="tuning")
        tuner.search(x, y, validation_data=(x_val, y_val), epochs=10)
        print(tuner.results())
        robust = tuner.get_best_models()[0]

    Args:
        hypermodel: a `RobustHyperModel`, or any keras-tuner HyperModel or function (hp) that builds compiled tf-keras
            models.
        objective: what to search for: "val_adversarial_accuracy", "val_accuracy", "file_bytes", any other metric of
            the logs (a keras_tuner.Objective where its direction can't be told), or several of them as a list. Several
            are searched by the sum of their costs, bytes counted in units of the float network's; a dict {name: weight}
            weights them. See `results().pareto()` for what that sum hides.
        max_trials: number of trials, those over the budget included.
        max_bytes: trials whose model is larger by `size` are not trained. Default: no limit.
        size: (model) -> bytes, the metric `file_bytes`: `packed_bytes`, or a `ConvertedBytes` for the exact file.
        seed: of drawn values, weights, data order and attacks; all trials begin with the same random numbers. The
            same seed gives the same search. Default: drawn, and kept with the search.
        directory, project_name: the search is kept in directory/project_name, a local folder, and goes on from there.
            Weights of best epochs are in trial_*/best.keras.
        overwrite: delete what is there and begin anew.
        max_failures: so many failing trials in a row end the search with an error.

    Raises:
        TypeError, ValueError: for an unusable argument, an empty search space, or a folder that holds another search.
        ImportError: without keras-tuner.
    """

    def __init__(
        self,
        hypermodel: Any,
        *,
        max_trials: int = 10,
        **common: Unpack[Common],
    ) -> None:
        check_count("max_trials", max_trials)
        super().__init__(
            lambda **also: RandomOracle(max_trials=max_trials, **also),
            hypermodel,
            settings={},
            **common,
        )


class BayesianOptimization(TfKerasTuner):
    """Tries values that a Gaussian process on the trials so far promises most of. Needs scikit-learn and scipy.

    Args:
        num_initial_points: trials with random values before the first fit of the process; default three for each
            setting of the space.
        Others as `RandomSearch`.

    Raises:
        As `RandomSearch`.
    """

    def __init__(
        self,
        hypermodel: Any,
        *,
        max_trials: int = 10,
        num_initial_points: int | None = None,
        **common: Unpack[Common],
    ) -> None:
        check_count("max_trials", max_trials)
        points = None if num_initial_points is None else check_count("num_initial_points", num_initial_points)
        super().__init__(
            lambda **also: BayesianOracle(max_trials=max_trials, num_initial_points=points, **also),
            hypermodel,
            settings={"num_initial_points": points},
            **common,
        )


class GridSearch(TfKerasTuner):
    """Tries every combination of values, defaults first, the last setting changing fastest.

    A `Range` of floats is tried at ten values; of whole numbers, at all.

    Args:
        max_trials: at most so many combinations; default all.
        Others as `RandomSearch`.

    Raises:
        As `RandomSearch`.
    """

    def __init__(
        self,
        hypermodel: Any,
        *,
        max_trials: int | None = None,
        **common: Unpack[Common],
    ) -> None:
        limit = None if max_trials is None else check_count("max_trials", max_trials)
        super().__init__(
            lambda **also: GridOracle(max_trials=limit, **also),
            hypermodel,
            settings={},
            **common,
        )


class Hyperband(TfKerasTuner):
    """Trains many settings for a few epochs, the best of them for more, and so on.

    A trial of a later round goes on from the last epoch of the earlier one, with its weights and its optimizer's
    state. The ratio schedule runs through in every round, so that all are compared fully quantized.

    Args:
        max_epochs: of the last round; takes the place of search()'s epochs.
        factor: from round to round so many times fewer settings for so many times more epochs, >= 2.
        iterations: how often the whole is repeated.
        Others as `RandomSearch`.

    Raises:
        As `RandomSearch`.
    """

    continues = True

    def __init__(
        self,
        hypermodel: Any,
        *,
        max_epochs: int = 30,
        factor: int = 3,
        iterations: int = 1,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "max_epochs": check_count("max_epochs", max_epochs),
            "factor": check_count("factor", factor, minimum=2),
            "hyperband_iterations": check_count("iterations", iterations),
        }
        super().__init__(
            lambda **also: HyperbandOracle(**settings, **also),
            hypermodel,
            settings=settings,
            **common,
        )

    def run_trial(self, trial: Any, *fit_args: Any, **fit_kwargs: Any) -> dict[str, float]:
        """As the base class, for the epochs of the trial's round."""
        values = trial.hyperparameters.values
        epochs = {"epochs": values["tuner/epochs"], "initial_epoch": values["tuner/initial_epoch"]}
        return super().run_trial(trial, *fit_args, **{**fit_kwargs, **epochs})

    def _check_arguments(self, fit_kwargs: dict[str, Any]) -> None:
        given = [name for name in ("epochs", "initial_epoch") if name in fit_kwargs]
        if given:
            raise ValueError(
                f"Expected no {' or '.join(given)} in search(), as Hyperband sets them in each round. Set max_epochs="
                "... of the tuner."
            )
        super()._check_arguments(fit_kwargs)
