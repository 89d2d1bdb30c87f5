"""The one door to tf-keras (Keras 2) and tfmot, whatever `tf.keras` means in the user's program.

tfmot decides at its import which Keras it works on: it sets TF_USE_LEGACY_KERAS and resolves `tf.keras`, which would
silently turn the `tf.keras` of the user's program into Keras 2. Here tfmot is shown tf-keras while it is imported, and
both are put back, so that neither environment variables nor the order of imports matter.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

import tensorflow as tf
import tf_keras as keras

_VARIABLE = "TF_USE_LEGACY_KERAS"


def _import_tfmot() -> ModuleType:
    users_keras, users_variable = tf.keras, os.environ.get(_VARIABLE)
    tf.keras = keras
    # tfmot tries a module of old Keras versions, which would load Keras 3; None makes that try fail, as it does anyway.
    keras_3_is_loaded = sys.modules.setdefault("keras", None) is not None  # type: ignore[arg-type]
    try:
        import tensorflow_model_optimization as tfmot
    finally:
        tf.keras = users_keras
        if not keras_3_is_loaded:
            del sys.modules["keras"]
        if users_variable is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = users_variable
    return tfmot


_tfmot = _import_tfmot()
tfmot_quantization: Any = _tfmot.quantization.keras
tfmot_sparsity: Any = _tfmot.sparsity.keras


def describe(obj: Any) -> dict[str, Any] | None:
    """A registered object as plain data that all of Keras' file formats keep, each of which has its own notation."""
    if obj is None:
        return None
    return {"class": keras.saving.get_registered_name(type(obj)), "config": obj.get_config()}


def from_description(description: dict[str, Any] | None) -> Any:
    """The object that `describe` described.

    Raises:
        ValueError: if its class is not registered in this program.
    """
    if description is None:
        return None
    cls = keras.saving.get_registered_object(description["class"])
    if cls is None:
        raise ValueError(
            f"Expected the class {description['class']!r} to be registered. Import the module that defines it, and "
            "decorate it with keras.saving.register_keras_serializable() if it is your own."
        )
    return cls.from_config(description["config"])


__all__ = ["describe", "from_description", "keras", "tfmot_quantization", "tfmot_sparsity"]
