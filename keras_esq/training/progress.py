"""A progress bar over the epochs of one or several trainings."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from keras_esq._keras import keras


class EpochProgress(keras.callbacks.Callback):
    """One tick of a tqdm bar an epoch, with the figures of that epoch.

    Args:
        bar: the bar; not closed.
        names: which figures to show; default all.
    """

    def __init__(self, bar: Any, names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.bar, self.names = bar, names

    def __deepcopy__(self, memo: dict[int, Any]) -> EpochProgress:
        return copy.copy(self)  # keras-tuner copies callbacks; there is one bar for all trials

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Show the epoch."""
        logs = logs or {}
        self.bar.set_postfix({name: f"{logs.get(name, float('nan')):.3f}" for name in self.names or logs})
        self.bar.update()
