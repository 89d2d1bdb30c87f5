"""`load_model`: what `.save` wrote, low-bit models and ErrorSilencedModels included."""

from __future__ import annotations

import os
import zipfile
from typing import Any

from keras_esq._keras import keras, tfmot_quantization
from keras_esq.keras3 import is_keras3_file, load_keras3_file
from keras_esq.quantize.pruning import PRUNING_WRAPPER
from keras_esq.quantize.wrapper import LowBitWrapper

# What loaders have to be told of: wrappers that are tfmot's, or stand in for tfmot's.
_WRAPPERS = {"QuantizeWrapperV2": LowBitWrapper, "PruneLowMagnitude": PRUNING_WRAPPER}


def load_model(
    path: str | os.PathLike[str], *, custom_objects: dict[Any, Any] | None = None, compile: bool = True
) -> Any:
    """Load a model that `model.save(path)` wrote, as a .keras file, an .h5 file or a SavedModel folder.

    Predictions come back exactly, and so does the state of a training: ratio, partition, random numbers and, from a
    .keras file, the optimizer. (tf-keras itself starts with a new optimizer state after loading a SavedModel.)

    A .keras or .h5 file of Keras 3 is loaded with Keras 3 and translated (`esq.from_keras3`), not compiled.

    Args:
        path: the file or folder.
        custom_objects: {name: class or function} for layers and losses of your own. For a file of Keras 3
            {Keras 3 class: tf-keras class}, as `esq.from_keras3` takes it.
        compile: restore optimizer, loss and metrics too; not those of Keras 3.

    Returns:
        The tf-keras model.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ImportError: for a file of Keras 3, if that is not installed.
        TypeError: for a subclassed model of Keras 3, or `custom_objects` that are not as that needs them.
        ValueError: if it is not a Keras model but an export of one, say, is damaged, needs `custom_objects`, or can't
            be translated.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"Expected a saved model. Received {path!r}, where there is nothing. Check the path.")
    if is_keras3_file(path):
        return load_keras3_file(path, custom_objects)
    try:
        with tfmot_quantization.quantize_scope({**_WRAPPERS, **(custom_objects or {})}):
            model = keras.models.load_model(path, compile=compile)
    except (ValueError, TypeError, OSError, KeyError, AttributeError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(
            f"Expected a model written by model.save() of tf-keras or keras_esq. Could not load {path!r}: "
            f"{type(error).__name__}: {error}. If it has layers or losses of your own, pass custom_objects="
            "{'Name': Class}; if the file is damaged, save the model again."
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Expected a model written by model.save(). Received the SavedModel {path!r} without its layers, as "
            "model.export() and tf.saved_model.save() write them. Save the model itself: model.save('model.keras')."
        )
    return model
