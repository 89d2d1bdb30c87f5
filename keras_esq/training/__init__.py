"""The custom fit loop: error-silenced training [ESQ] behind Keras' compile and fit."""

from keras_esq.training.average import WeightAverage, reestimate_batchnorm
from keras_esq.training.backup import Backup
from keras_esq.training.board import QuantizationBoard
from keras_esq.training.callbacks import QuantizationRatio, WarmUp
from keras_esq.training.lipschitz import Orthogonality
from keras_esq.training.model import ErrorSilencedModel
from keras_esq.training.objectives import (
    OBJECTIVES,
    Adversarial,
    AdversarialPairing,
    Free,
    Mart,
    Natural,
    Objective,
    Pairing,
    RobustDistillation,
    Trades,
)
from keras_esq.training.pairing import ActivationPairing, LogitPairing, pairing_distance
from keras_esq.training.saving import load_model
from keras_esq.training.stages import CosineStages
from keras_esq.training.weight_perturbation import WeightPerturbation

__all__ = [
    "OBJECTIVES",
    "ActivationPairing",
    "Adversarial",
    "AdversarialPairing",
    "Backup",
    "CosineStages",
    "ErrorSilencedModel",
    "Free",
    "LogitPairing",
    "Mart",
    "Natural",
    "Objective",
    "Orthogonality",
    "Pairing",
    "QuantizationBoard",
    "QuantizationRatio",
    "RobustDistillation",
    "Trades",
    "WarmUp",
    "WeightAverage",
    "WeightPerturbation",
    "load_model",
    "pairing_distance",
    "reestimate_batchnorm",
]
