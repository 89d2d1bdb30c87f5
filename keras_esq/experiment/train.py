"""Training one model of an experiment, in a folder of its own; a killed one goes on."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_esq._files import atomic_path, write_atomic
from keras_esq._keras import keras, tfmot_sparsity
from keras_esq.data import Dataset, pipeline, steps_per_epoch
from keras_esq.experiment.build import as_schedule, build_model
from keras_esq.experiment.config import Config
from keras_esq.experiment.recipe import Recipe
from keras_esq.training import (
    Backup,
    ErrorSilencedModel,
    QuantizationRatio,
    WarmUp,
    WeightAverage,
    load_model,
    reestimate_batchnorm,
)
from keras_esq.training.progress import EpochProgress

MODEL, HISTORY, FINISHED, SECONDS = "model.keras", "history.json", "finished", "seconds"
BACKUP, BEST = "backup", "best.npz"
# Training images by which BatchNormalization statistics are set anew.
STATISTICS_IMAGES = 1000


class History(keras.callbacks.Callback):
    """The figures and seconds of each epoch in a JSON file; of a training that goes on, those after `done` are dropped.

    Args:
        path: of the file.
        done: epochs done.
    """

    def __init__(self, path: Path, done: int) -> None:
        super().__init__()
        self._path = path
        self.rows: list[dict[str, float]] = json.loads(path.read_text())[:done] if path.exists() else []

        self._start = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add a row."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        self.rows.append({**figures, SECONDS: round(time.perf_counter() - self._start, 3)})
        write_atomic(self._path, json.dumps(self.rows, indent=1) + "\n")


class Best(keras.callbacks.Callback):
    """Keeps the weights of the epoch in which a validation figure was best, and puts them back at the end.

    Args:
        path: of the .npz file.
        figure: its name; the highest is best, of a loss the lowest.
        start: the first epoch that may be kept, counted from 0.
    """

    def __init__(self, path: Path, figure: str, start: int = 0) -> None:
        super().__init__()
        self._path, self._figure, self._start = path, figure, start
        self._validated: list[Any] = []

    def on_test_end(self, logs: Any = None) -> None:
        """Remember the weights that were validated: of a `WeightAverage` those are not the ones that are trained."""
        self._validated = self.model.network.get_weights()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep the weights if they are better."""
        if self._figure not in (logs or {}):
            raise ValueError(f"Expected restore_best out of {sorted(logs or {})}. Received: {self._figure!r}.")
        if epoch < self._start:
            return
        value = float(logs[self._figure]) * (-1 if self._figure.endswith("loss") else 1)
        if self._path.exists():
            with np.load(self._path) as kept:
                # An epoch that runs anew after an interruption comes to the same value.
                if value <= kept["value"]:
                    return
        with atomic_path(self._path) as path, path.open("wb") as file:
            arrays = {f"w{number}": weight for number, weight in enumerate(self._validated)}
            np.savez(file, value=value, epoch=epoch, **arrays)

    def on_train_end(self, logs: Any = None) -> None:
        """Put the best weights back."""
        with np.load(self._path) as kept:
            self.model.network.set_weights([kept[f"w{number}"] for number in range(len(kept.files) - 2)])


def is_trained(folder: Path) -> bool:
    """Whether the model in that folder is finished."""
    return (folder / FINISHED).exists()


def train(recipe: Recipe, config: Config, data: Dataset, seed: int, folder: Path) -> None:
    """Train a model, or go on with its training.

    Args:
        recipe: the model's.
        config: the experiment.
        data: its data.
        seed: of weights, order, partitions and attacks.
        folder: of the seed; the model gets a folder in it.
    """
    own = folder / recipe.name
    own.mkdir(parents=True, exist_ok=True)
    model = build_model(recipe, config, data, seed, folder)
    if recipe.is_trained:
        _fit(model, recipe, config, data, seed, own)
    with atomic_path(own / MODEL) as path:
        model.save(path)
    write_atomic(own / FINISHED, "")


def _fit(model: ErrorSilencedModel, recipe: Recipe, config: Config, data: Dataset, seed: int, own: Path) -> None:
    """Train it, with checkpoints and figures in its `own` folder."""
    backup = Backup(own / BACKUP)
    done = backup.restore(model)
    callbacks = [History(own / HISTORY, done), *_callbacks(recipe, model, data, own)]
    with tqdm(total=recipe.epochs, initial=done, unit="epoch", desc=f"seed {seed} {recipe.name}") as bar:
        model.fit(
            **_batches(recipe, config, data, seed, done),
            epochs=recipe.epochs,
            initial_epoch=done,
            validation_data=(data.x_val, data.y_val),
            validation_batch_size=recipe.batch_size,
            verbose=0,
            # Last the checkpoint, so that all others have done their part in an epoch that counts as done.
            callbacks=[EpochProgress(bar, _shown(recipe)), *callbacks, backup],
        )
    if recipe.reestimate:
        x, y = _statistics_images(data)
        reestimate_batchnorm(model, x, recipe.batch_size, y=y)
    # What the last epoch counted is no part of the result, and missing if that epoch was done before an interruption.
    model.reset_metrics()


def tidy(folder: Path) -> None:
    """Delete what only the training of a finished model needed."""
    shutil.rmtree(folder / BACKUP, ignore_errors=True)
    (folder / BEST).unlink(missing_ok=True)


def trained(folder: Path, name: str) -> ErrorSilencedModel:
    """The finished model of that name."""
    return load_model(folder / name / MODEL, compile=False)


def _callbacks(recipe: Recipe, model: ErrorSilencedModel, data: Dataset, own: Path) -> list[Any]:
    """What a recipe has besides its objective."""
    callbacks: list[Any] = []
    if recipe.weights:
        callbacks.append(QuantizationRatio(as_schedule(recipe.ratio)))
    if recipe.prune:
        callbacks.append(tfmot_sparsity.UpdatePruningStep())
    if recipe.warm_up:
        settings = {**recipe.warm_up}
        if settings.pop("eps", False):
            attack: Any = model.attack
            settings["eps"] = float(attack.eps)
        callbacks.append(WarmUp(**settings))
    # Before the average, which is in place while it is validated.
    if recipe.restore_best:
        callbacks.append(Best(own / BEST, recipe.restore_best, recipe.start_from_epoch))
    if recipe.average:
        callbacks.append(WeightAverage(*_statistics_images(data), batch_size=recipe.batch_size))
    return callbacks


def _statistics_images(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    return data.x_train[:STATISTICS_IMAGES], data.y_train[:STATISTICS_IMAGES]


def _shown(recipe: Recipe) -> tuple[str, ...]:
    return ("loss", "val_accuracy") if recipe.objective == "natural" else ("adversarial_accuracy", "val_accuracy")


def _batches(recipe: Recipe, config: Config, data: Dataset, seed: int, done: int) -> dict[str, Any]:
    """What `fit` is given: arrays, or augmented batches."""
    augment = config.data.augment or data.augment
    if augment == "none":
        return {"x": data.x_train, "y": data.y_train, "batch_size": recipe.batch_size}
    stream = pipeline(data.x_train, data.y_train, recipe.batch_size, augment=augment, seed=seed, first_epoch=done)
    return {"x": stream, "steps_per_epoch": steps_per_epoch(len(data.x_train), recipe.batch_size)}
