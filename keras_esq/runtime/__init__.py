"""Run a .tflite: LiteRT, tflite-runtime, TensorFlow and TFLM behind one small interface."""

from keras_esq.runtime.agreement import Agreement, LayerAgreement, RuntimeAgreement
from keras_esq.runtime.backends import RUNTIMES, available_runtimes
from keras_esq.runtime.flatbuffer import Flatbuffer
from keras_esq.runtime.flatbuffer_format import FlatbufferError
from keras_esq.runtime.micro_profile import ArenaReport, MicroProfile, OperatorTime

__all__ = [
    "RUNTIMES",
    "Agreement",
    "ArenaReport",
    "Flatbuffer",
    "FlatbufferError",
    "LayerAgreement",
    "MicroProfile",
    "OperatorTime",
    "RuntimeAgreement",
    "available_runtimes",
]
