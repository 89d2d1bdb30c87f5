"""The one door to tf-keras (Keras 2) and tfmot, whatever `tf.keras` means in the user's program.

tfmot decides at its import which Keras it works on: it sets TF_USE_LEGACY_KERAS and resolves `tf.keras`, which would
silently turn the `tf.keras` of the user's program into Keras 2. Here tfmot is shown tf-keras while it is imported, and
both are put back, so that neither environment variables nor the order of imports matter.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import tensorflow as tf
import tf_keras as keras

_VARIABLE = "TF_USE_LEGACY_KERAS"


def _import_tfmot_quantization() -> ModuleType:
    users_keras, users_variable = tf.keras, os.environ.get(_VARIABLE)
    tf.keras = keras
    try:
        import tensorflow_model_optimization as tfmot
    finally:
        tf.keras = users_keras
        if users_variable is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = users_variable
    return tfmot.quantization.keras


tfmot_quantization: Any = _import_tfmot_quantization()

__all__ = ["keras", "tfmot_quantization"]
