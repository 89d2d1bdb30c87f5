"""Search for the settings of a small, robust network, with keras-tuner.

keras-tuner is imported when one of the names below is first used, as it loads Keras 3.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_esq.tuning.hypermodel import RobustHyperModel
    from keras_esq.tuning.results import SearchResults, TrialResult
    from keras_esq.tuning.sizes import ConvertedBytes, packed_bytes
    from keras_esq.tuning.space import Range
    from keras_esq.tuning.tuners import BayesianOptimization, GridSearch, Hyperband, RandomSearch

_MODULE_OF = {
    "BayesianOptimization": "tuners",
    "ConvertedBytes": "sizes",
    "GridSearch": "tuners",
    "Hyperband": "tuners",
    "RandomSearch": "tuners",
    "Range": "space",
    "RobustHyperModel": "hypermodel",
    "SearchResults": "results",
    "TrialResult": "results",
    "packed_bytes": "sizes",
}

__all__ = [
    "BayesianOptimization",
    "ConvertedBytes",
    "GridSearch",
    "Hyperband",
    "RandomSearch",
    "Range",
    "RobustHyperModel",
    "SearchResults",
    "TrialResult",
    "packed_bytes",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
