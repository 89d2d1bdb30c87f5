"""The custom fit loop: error-silenced training [ESQ] behind Keras' compile and fit."""

from keras_esq.training.backup import Backup
from keras_esq.training.board import QuantizationBoard
from keras_esq.training.callbacks import QuantizationRatio
from keras_esq.training.model import ErrorSilencedModel
from keras_esq.training.pairing import ActivationPairing, LogitPairing, pairing_distance
from keras_esq.training.saving import load_model

__all__ = [
    "ActivationPairing",
    "Backup",
    "ErrorSilencedModel",
    "LogitPairing",
    "QuantizationBoard",
    "QuantizationRatio",
    "load_model",
    "pairing_distance",
]
