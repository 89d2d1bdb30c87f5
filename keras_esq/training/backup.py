"""Checkpoints of a training, from which a killed one goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_esq._files import write_atomic
from keras_esq._keras import keras


class Backup(keras.callbacks.Callback):
    """Saves weights, optimizer, ratio, partition and random numbers after each epoch; a killed training goes on.

        backup = esq.training.Backup("run")
        robust.fit(x, y, epochs=30, initial_epoch=backup.restore(robust), callbacks=[backup])

    Run again after it was killed at any moment, this ends with the same weights, bit for bit, as if it had never
    stopped (see `ErrorSilencedModel.fit` for what has a state of its own). A checkpoint that can't be written, on a
    full disk, is an error and leaves the last good one.

    Args:
        folder: for the checkpoints; made if needed. One training each.

    Raises:
        OSError: if the folder can't be made.
        ValueError: for a path with "[" or "\\", from which TensorFlow restores nothing.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        self.folder = Path(folder)
        if set("[\\") & set(str(self.folder)):  # read as a pattern there
            raise ValueError(
                f"Expected a folder whose path has no '[' and no backslash, as TensorFlow finds no checkpoint there. "
                f"Received {str(folder)!r}. Choose another name."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._manager: Any = None

    def restore(self, model: Any) -> int:
        """Put the last checkpoint into `model` and return the number of epochs done: 0 without a checkpoint.

        Raises:
            ValueError: for a model that is not compiled, or not the one of the checkpoint.
            OSError: if the checkpoint can't be read.
        """
        if model.optimizer is None:
            raise ValueError(f"Expected a compiled model. Received {model.name!r}. Call compile first.")
        if hasattr(model.optimizer, "build"):  # legacy ones restore their variables as they make them
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)
        self._manager = self._made(model)
        signature = _signature(model)
        note = self.folder / _NOTE
        if self._manager.latest_checkpoint is None:
            write_atomic(note, json.dumps(signature))
            return 0
        found = json.loads(note.read_text()) if note.exists() else None
        if found != signature:
            raise ValueError(
                f"Expected the checkpoint of {model.name!r} in {str(self.folder)!r}. Received one of another model: "
                f"{_difference(found, signature)}. Use another folder, or delete this one to begin anew."
            )
        try:
            self._manager.checkpoint.restore(self._manager.latest_checkpoint).assert_existing_objects_matched()
        except (tf.errors.OpError, AssertionError, ValueError, IndexError) as error:  # as the damage is
            raise OSError(
                f"Expected a whole checkpoint in {str(self.folder)!r}. Received one that can't be read: {error}. "
                "Delete the folder to begin anew."
            ) from error
        return int(self._manager.latest_checkpoint.rsplit("-", 1)[1])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save. The name of a checkpoint is the number of epochs done."""
        if self._manager is None:
            self._manager = self._made(self.model)
            write_atomic(self.folder / _NOTE, json.dumps(_signature(self.model)))
        try:
            self._manager.save(checkpoint_number=epoch + 1)
        except tf.errors.OpError as error:
            raise OSError(
                f"Expected room for a checkpoint in {str(self.folder)!r}. It could not be written: {error.message}. "
                "The one before it is whole: make room, and run the training again to go on."
            ) from error

    def _made(self, model: Any) -> Any:
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        # The one before stays until the new one is whole.
        return tf.train.CheckpointManager(checkpoint, str(self.folder), max_to_keep=2, checkpoint_name="epoch")


_NOTE = "model.json"


def _signature(model: Any) -> list[list[Any]]:
    """Name and shape of each weight, by which another model is told apart."""
    return [[weight.name, list(weight.shape)] for weight in model.weights]


def _difference(found: Any, wanted: list[list[Any]]) -> str:
    if not isinstance(found, list) or len(found) != len(wanted):
        return f"{len(found) if isinstance(found, list) else 'unknown'} weights instead of {len(wanted)}"
    one, other = next(pair for pair in zip(found, wanted, strict=True) if pair[0] != pair[1])
    return f"the weight {one[0]!r} of shape {one[1]} instead of {other[0]!r} of shape {other[1]}"
