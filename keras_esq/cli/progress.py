"""A progress bar over epochs, with the time left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm


@contextlib.contextmanager
def epoch_bar(epochs: int, done: int = 0) -> Iterator[Any]:
    """A callback that moves a bar of `epochs` on the terminal's stderr, `done` of which are behind."""
    from keras_esq._keras import keras

    class Bar(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            bar.set_postfix({name: f"{value:.3f}" for name, value in (logs or {}).items()})
            bar.update()

    with tqdm(total=epochs, initial=done, unit="epoch") as bar:
        yield Bar()
