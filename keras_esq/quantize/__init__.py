"""Float model -> low-bit model."""

from keras_esq.quantize.configs import BinaryQuantizeConfig, Int8QuantizeConfig, TernaryQuantizeConfig
from keras_esq.quantize.functions import binarize, round_int8, ternarize
from keras_esq.quantize.l1_batchnorm import L1BatchNormalization, with_l1_batchnorm
from keras_esq.quantize.model import quantize_model
from keras_esq.quantize.partition import draw_partitions
from keras_esq.quantize.quantizers import Binary, Int8, LowBitQuantizer, Ternary, get_quantizer
from keras_esq.quantize.schedules import get_schedule
from keras_esq.quantize.scheme import LowBitScheme
from keras_esq.quantize.state import (
    frozen_weights,
    get_ratio,
    held_weights,
    low_bit_weights,
    renew_partition,
    set_ratio,
)
from keras_esq.quantize.strip import strip
from keras_esq.quantize.summary import summary
from keras_esq.quantize.wrapper import LowBitWeight, LowBitWrapper

__all__ = [
    "Binary",
    "BinaryQuantizeConfig",
    "Int8",
    "Int8QuantizeConfig",
    "L1BatchNormalization",
    "LowBitQuantizer",
    "LowBitScheme",
    "LowBitWeight",
    "LowBitWrapper",
    "Ternary",
    "TernaryQuantizeConfig",
    "binarize",
    "draw_partitions",
    "frozen_weights",
    "get_quantizer",
    "get_ratio",
    "get_schedule",
    "held_weights",
    "low_bit_weights",
    "quantize_model",
    "renew_partition",
    "round_int8",
    "set_ratio",
    "strip",
    "summary",
    "ternarize",
    "with_l1_batchnorm",
]
