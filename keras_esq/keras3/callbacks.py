"""Keras 3 callbacks and datasets in the fit of a tf-keras model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keras_esq._keras import keras
from keras_esq.keras3.detect import is_keras3, is_keras3_own, keras3

_HOOKS = (
    *("on_epoch_begin", "on_epoch_end", "on_batch_begin", "on_batch_end"),
    *(f"on_{mode}_batch_{when}" for mode in ("train", "test", "predict") for when in ("begin", "end")),
    *(f"on_{mode}_{when}" for mode in ("train", "test", "predict") for when in ("begin", "end")),
)


def _same(*names: str, **others: str) -> dict[str, str]:
    return {**{name: name for name in names}, **others}


# Class -> {argument of tf-keras' constructor: attribute of the Keras 3 object}. Those that work on any model are
# forwarded to instead.
_CALLBACKS = {
    "BackupAndRestore": _same("backup_dir", "save_freq", "delete_checkpoint"),
    "CSVLogger": _same("filename", "append", separator="sep"),
    "EarlyStopping": _same(
        *("monitor", "min_delta", "patience", "verbose", "mode", "baseline", "restore_best_weights"), "start_from_epoch"
    ),
    "LearningRateScheduler": _same("schedule", "verbose"),
    "ModelCheckpoint": _same(
        *("filepath", "monitor", "verbose", "save_best_only", "save_weights_only", "mode", "save_freq"),
        initial_value_threshold="best",
    ),
    "ProgbarLogger": {},
    "ReduceLROnPlateau": _same(
        *("monitor", "factor", "patience", "verbose", "mode", "min_delta", "cooldown", "min_lr")
    ),
    "RemoteMonitor": _same("root", "path", "field", "headers", "send_as_json"),
    "TensorBoard": _same(
        *("log_dir", "histogram_freq", "write_graph", "write_images", "write_steps_per_second", "update_freq"),
        *("embeddings_freq", "embeddings_metadata"),
    ),
    "TerminateOnNaN": {},
}
_FORWARDED = ("Callback", "History", "LambdaCallback")


class ForwardingCallback(keras.callbacks.Callback):
    """Hands each hook, the model and the parameters of a fit on to a Keras 3 callback.

    Args:
        callback: an instance of a subclass of keras.callbacks.Callback. Its `model` is the tf-keras model.
    """

    def __init__(self, callback: Any) -> None:
        super().__init__()
        self.callback = callback
        # As attributes: a hook that the callback does not override is seen to do nothing, and batches stay fast.
        for hook in _HOOKS:
            setattr(self, hook, getattr(callback, hook))

    def set_params(self, params: Any) -> None:
        """Epochs, steps and verbosity."""
        super().set_params(params)
        self.callback.set_params(params)

    def set_model(self, model: Any) -> None:
        """The model that is trained."""
        super().set_model(model)
        self.callback.set_model(model)


class ForwardingSequence(keras.utils.Sequence):
    """The batches of a Keras 3 PyDataset.

    Args:
        dataset: a keras.utils.PyDataset of known length.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def on_epoch_end(self) -> None:
        """What the dataset does then."""
        self.dataset.on_epoch_end()


def translate_callback(callback: Any) -> Any:
    """The tf-keras callback that does what a Keras 3 callback does.

    Keras 3's own are made anew from their settings; others, subclasses of them included, are forwarded to.

    Raises:
        ValueError: for one of Keras 3's own that tf-keras has no counterpart of.
    """
    name = type(callback).__name__
    if not is_keras3_own(type(callback)) or name in _FORWARDED:
        return ForwardingCallback(callback)
    arguments = _CALLBACKS.get(name)
    if arguments is None:
        raise ValueError(
            f"Expected a callback that tf-keras has too: {', '.join(sorted([*_CALLBACKS, *_FORWARDED]))}, or one of "
            f"your own. Received keras.callbacks.{name}. Leave it out, or subclass keras.callbacks.Callback."
        )
    if getattr(callback, "raise_error", False):
        raise ValueError(
            "Expected TerminateOnNaN(raise_error=False), as in tf-keras, which stops the training. Received "
            "raise_error=True. Leave it out."
        )
    settings = {argument: getattr(callback, attribute) for argument, attribute in arguments.items()}
    if name == "TensorBoard":
        settings["profile_batch"] = _profile_batch(callback)
    return getattr(keras.callbacks, name)(**settings)


def _profile_batch(callback: Any) -> Any:
    """The batches that a Keras 3 TensorBoard profiles. It keeps them in private attributes only."""
    return (callback._start_batch, callback._stop_batch) if callback._stop_batch else 0


@contextmanager
def fit_arguments(x: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """(x, args, kwargs) of a `fit` or `evaluate` with its Keras 3 callbacks and datasets translated.

    Afterwards the user's own callbacks show what the fit made of them, such as EarlyStopping's `stopped_epoch`.
    """
    if keras3() is None:
        yield x, args, kwargs
        return
    made: list[tuple[Any, Any]] = []

    def translated(value: Any) -> Any:
        if isinstance(value, (list, tuple)) and any(isinstance(v, keras3().callbacks.Callback) for v in value):
            return [translated(v) for v in value]
        if is_keras3(value) and isinstance(value, keras3().utils.PyDataset):
            return ForwardingSequence(value)
        if is_keras3(value) and isinstance(value, keras3().callbacks.Callback):
            made.append((value, translate_callback(value)))
            return made[-1][1]
        return value

    arguments = translated(x), tuple(map(translated, args)), {k: translated(v) for k, v in kwargs.items()}
    try:
        yield arguments
    finally:
        for theirs, ours in made:
            if not isinstance(ours, ForwardingCallback):
                _show(ours, theirs)


def _show(ours: Any, theirs: Any) -> None:
    """Copy the public results of a tf-keras callback to the Keras 3 one that it was made from."""
    for name, value in vars(ours).items():
        # The model and the functions that compare are tf-keras' own.
        if not name.startswith("_") and name not in ("model", "params", "validation_data") and not callable(value):
            setattr(theirs, name, value)
