"""A Keras model to a .tflite file that is known to compute the same; what a file stores."""

from keras_esq.conversion.compilers import CompilerError
from keras_esq.conversion.constants_check import ConversionError
from keras_esq.conversion.convert import convert
from keras_esq.conversion.edgetpu import EdgeTpuReport, OpVerdict, check_edgetpu
from keras_esq.conversion.inspection import FlatbufferSummary, TensorRow, inspect
from keras_esq.conversion.targets import TARGETS, Target
from keras_esq.conversion.vela import ACCELERATORS, VelaReport

__all__ = [
    "ACCELERATORS",
    "TARGETS",
    "CompilerError",
    "ConversionError",
    "EdgeTpuReport",
    "FlatbufferSummary",
    "OpVerdict",
    "Target",
    "TensorRow",
    "VelaReport",
    "check_edgetpu",
    "convert",
    "inspect",
]
