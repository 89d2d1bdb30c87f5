"""The weights of a trial: those of its best epoch, and its last ones with the optimizer's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_esq._files import atomic_path
from keras_esq._keras import keras
from keras_esq.tuning._keras_tuner import kt
from keras_esq.tuning.goals import FILE_BYTES, Goal, better, score, score_name
from keras_esq.tuning.outcome import BEST, LAST


class KeepBestEpoch(keras.callbacks.Callback):
    """Saves the model whenever an epoch is the best so far.

    Args:
        folder: of the trial.
        goals: by which epochs are compared.
        file_bytes: of the model.
        byte_scale: see `score`.
        keep_last: also save each epoch, for a later round to go on from.
        gaps: whether there are epochs without validation, by `validation_freq` of `fit`; they are not compared.

    Attributes:
        metrics: of the best epoch, with the score; None before the first.
        best_epoch: counted from 1; 0 before the first.
        compared: whether any epoch was.
    """

    def __init__(
        self, folder: Path, goals: tuple[Goal, ...], file_bytes: int, byte_scale: float, keep_last: bool, gaps: bool
    ) -> None:
        super().__init__()
        self.folder, self.goals, self.keep_last, self.gaps = folder, goals, keep_last, gaps
        self.file_bytes, self.byte_scale = file_bytes, byte_scale
        self.metrics: dict[str, float] | None = None
        self.best_epoch = 0
        self.compared = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Compare and save."""
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        metrics[FILE_BYTES] = float(self.file_bytes)
        if self.keep_last:
            self._save(LAST)
        if self.gaps and not any(name.startswith("val_") for name in metrics):
            return
        check_reported(self.goals, metrics)
        self.compared = True
        name = score_name(self.goals)
        metrics[name] = score(self.goals, metrics, self.byte_scale)
        if better(self.goals, metrics[name], self.metrics[name] if self.metrics else None):
            self.metrics, self.best_epoch = metrics, epoch + 1
            self._save(BEST)

    def _save(self, name: str) -> None:
        with atomic_path(self.folder / name) as path:
            self.model.save(path)


def check_reported(goals: tuple[Goal, ...], metrics: dict[str, float]) -> None:
    """Raise ValueError unless every goal is among the metrics."""
    missing = [goal.name for goal in goals if goal.name not in metrics]
    if missing:
        # Fatal: no other trial would do better.
        raise kt.errors.FatalValueError(
            f"Expected the training to report {missing}. It reports {sorted(metrics)}. val_... needs validation_data "
            "in search(), val_adversarial_accuracy an ErrorSilencedModel with a validation_attack, val_accuracy "
            "metrics=['accuracy'] in compile."
        )


def load_state(model: Any, path: Path) -> Any:
    """`model` with the weights and the optimizer's state of the file; no custom_objects needed."""
    if hasattr(model.optimizer, "build"):  # not the legacy ones
        model.optimizer.build(model.trainable_variables)
    model.load_weights(str(path))
    return model
