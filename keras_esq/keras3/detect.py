"""Tell Keras 3 objects from others without importing Keras 3."""

from __future__ import annotations

import sys
from typing import Any


def keras3() -> Any:
    """The module `keras` of the user's program, None as long as the program has not imported Keras 3."""
    module = sys.modules.get("keras")
    return module if getattr(module, "__version__", "").split(".")[0] == "3" else None


def is_keras3(obj: Any) -> bool:
    """Whether `obj` is an instance of a Keras 3 class or of a subclass of one, or one of Keras 3's own functions."""
    if keras3() is None:
        return False
    classes = type(obj).__mro__
    return any(_of_keras(cls.__module__) for cls in classes) or _of_keras(getattr(obj, "__module__", None))


def is_keras3_model(obj: Any) -> bool:
    """Whether `obj` is a Keras 3 model of any kind."""
    return is_keras3(obj) and isinstance(obj, keras3().Model)


def is_keras3_own(obj: Any) -> bool:
    """Whether the class or function `obj` is Keras 3's own, not a subclass in somebody's program."""
    return keras3() is not None and _of_keras(getattr(obj, "__module__", None))


def _of_keras(module: Any) -> bool:
    # tf_keras, keras_hub and the like have other names in front of the first dot.
    return isinstance(module, str) and module.split(".")[0] == "keras"
