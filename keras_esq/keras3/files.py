"""Models that Keras 3 saved, in tf-keras."""

from __future__ import annotations

import json
import zipfile
from typing import Any

import h5py

from keras_esq.keras3.detect import import_keras3, is_keras3_class
from keras_esq.keras3.models import to_tf_keras, translate_model

_EXAMPLE = "esq.load_model(path, custom_objects={})"


def is_keras3_file(path: str) -> bool:
    """Whether Keras 3 wrote the .keras or .h5 file; False for folders, and for what can't be read."""
    # The configs name the module "keras" either way: only the version tells tf-keras, 2.x, from Keras 3.
    major = _version(path).split(".")[0]
    return major.isdigit() and int(major) >= 3


def load_keras3_file(path: str, custom_objects: dict[Any, Any] | None = None) -> Any:
    """Load a file of Keras 3 with Keras 3 and translate the model.

    Args:
        path: a .keras or .h5 file.
        custom_objects: as `from_keras3` takes it. Its classes of Keras 3, and its functions, are known while loading.

    Returns:
        A tf_keras.Model, not compiled.

    Raises:
        ImportError: if Keras 3 is not installed.
        TypeError: for bad `custom_objects`, classes of Keras 3 as counterparts among them, or a subclassed model.
        ValueError: if the file can't be loaded or the model not translated.
    """
    keras = import_keras3(f"to load {path!r}, which Keras 3 wrote")
    to_tf_keras(custom_objects)  # says at once if it is no such dict
    known = {}
    for key, value in (custom_objects or {}).items():
        if is_keras3_class(value):
            raise TypeError(
                f"Expected custom_objects={{Keras 3 class: tf-keras class}} for {path!r}, which Keras 3 wrote. "
                f"Received the Keras 3 class {value.__name__} as a counterpart. Write it for tf-keras too, as "
                f"My{value.__name__}, and pass {{{value.__name__}: My{value.__name__}}}."
            )
        if isinstance(key, type):
            known[key.__name__] = key
        elif not isinstance(value, type):  # a function, which both know by its name
            known[key] = value
    try:
        # Uncompiled, as translations are: losses and metrics of the user's own are not looked for.
        model = keras.saving.load_model(path, custom_objects=known, compile=False)
    except (ValueError, TypeError, OSError, KeyError, AttributeError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(
            f"Expected a model that Keras {_version(path)} wrote. Keras {keras.__version__} could not load {path!r}: "
            f"{type(error).__name__}: {error}. If it has layers of your own, pass custom_objects={{Keras 3 class: "
            "tf-keras class}; or load it yourself, with keras.saving.load_model, and translate it: "
            "esq.from_keras3(model). If the file is damaged, save the model again."
        ) from error
    return translate_model(model, custom_objects, _EXAMPLE)


def _version(path: str) -> str:
    """The version of the Keras that wrote the file; "" for anything else, whose loader says what is wrong."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return str(json.loads(archive.read("metadata.json"))["keras_version"])
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                version = file.attrs.get("keras_version", "")
            return version.decode() if isinstance(version, bytes) else str(version)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError):
        pass
    return ""
