"""Small image classifiers that are hard to fool: 1- and 2-bit weights, trained so that noise is not amplified.

    import keras_esq as esq

Names are loaded when they are first used: importing the package loads neither TensorFlow nor any interpreter, tuner or
plotting library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_esq import attacks, data, experiment, models, tuning
    from keras_esq.conversion import ConversionError, check_edgetpu, convert, inspect
    from keras_esq.evaluation import (
        AmplificationProfile,
        RobustnessReport,
        allocate_bits,
        corrupt,
        error_amplification,
        evaluate_robustness,
        masking_audit,
        plot_amplification,
        sensitivity,
        transfer_matrix,
    )
    from keras_esq.keras3 import from_keras3, to_keras3
    from keras_esq.quantize import (
        Binary,
        BinaryQuantizeConfig,
        Int8,
        Int8QuantizeConfig,
        L1BatchNormalization,
        LowBitScheme,
        Ternary,
        TernaryQuantizeConfig,
        binarize,
        quantize_model,
        strip,
        summary,
        ternarize,
    )
    from keras_esq.runtime import Flatbuffer, available_runtimes
    from keras_esq.training import ActivationPairing, ErrorSilencedModel, LogitPairing, QuantizationRatio, load_model

__version__ = "0.1.0"

# Module -> the public names that it gives; an empty list makes the module itself a public name.
_PUBLIC: dict[str, list[str]] = {
    "attacks": [],
    "data": [],
    "experiment": [],
    "models": [],
    "tuning": [],
    "conversion": ["ConversionError", "check_edgetpu", "convert", "inspect"],
    "evaluation": [
        "AmplificationProfile",
        "RobustnessReport",
        "allocate_bits",
        "corrupt",
        "error_amplification",
        "evaluate_robustness",
        "masking_audit",
        "plot_amplification",
        "sensitivity",
        "transfer_matrix",
    ],
    "keras3": ["from_keras3", "to_keras3"],
    "quantize": [
        "Binary",
        "BinaryQuantizeConfig",
        "Int8",
        "Int8QuantizeConfig",
        "L1BatchNormalization",
        "LowBitScheme",
        "Ternary",
        "TernaryQuantizeConfig",
        "binarize",
        "quantize_model",
        "strip",
        "summary",
        "ternarize",
    ],
    "runtime": ["Flatbuffer", "available_runtimes"],
    "training": ["ActivationPairing", "ErrorSilencedModel", "LogitPairing", "QuantizationRatio", "load_model"],
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "ActivationPairing",
    "AmplificationProfile",
    "Binary",
    "BinaryQuantizeConfig",
    "ConversionError",
    "ErrorSilencedModel",
    "Flatbuffer",
    "Int8",
    "Int8QuantizeConfig",
    "L1BatchNormalization",
    "LogitPairing",
    "LowBitScheme",
    "QuantizationRatio",
    "RobustnessReport",
    "Ternary",
    "TernaryQuantizeConfig",
    "allocate_bits",
    "attacks",
    "available_runtimes",
    "binarize",
    "check_edgetpu",
    "convert",
    "corrupt",
    "data",
    "error_amplification",
    "evaluate_robustness",
    "experiment",
    "from_keras3",
    "inspect",
    "load_model",
    "masking_audit",
    "models",
    "plot_amplification",
    "quantize_model",
    "sensitivity",
    "strip",
    "summary",
    "ternarize",
    "to_keras3",
    "transfer_matrix",
    "tuning",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    elif name in _PUBLIC:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF, *_PUBLIC})
