"""Keras 3 at the door: models, optimizers, losses, metrics and callbacks brought to tf-keras, and models back."""

from keras_esq.keras3.back import to_keras3
from keras_esq.keras3.callbacks import fit_arguments
from keras_esq.keras3.detect import is_keras3_model
from keras_esq.keras3.door import from_keras3, model_at_the_door
from keras_esq.keras3.files import is_keras3_file, load_keras3_file
from keras_esq.keras3.objects import translate_nest

__all__ = [
    "fit_arguments",
    "from_keras3",
    "is_keras3_file",
    "is_keras3_model",
    "load_keras3_file",
    "model_at_the_door",
    "to_keras3",
    "translate_nest",
]
