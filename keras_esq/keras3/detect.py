"""Tell Keras 3 objects from others without importing Keras 3."""

from __future__ import annotations

import sys
from typing import Any


def keras3() -> Any:
    """The module `keras` of the user's program, None as long as the program has not imported Keras 3."""
    module = sys.modules.get("keras")
    return module if getattr(module, "__version__", "").split(".")[0] == "3" else None


def import_keras3(what_for: str) -> Any:
    """The module `keras` of Keras 3, imported if need be.

    Args:
        what_for: the end of "Expected Keras 3 ..." in the message.

    Raises:
        ImportError: if Keras 3 or its backend is not installed.
    """
    try:
        import keras as _  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Expected Keras 3, and the backend that KERAS_BACKEND or ~/.keras/keras.json names, {what_for}. Could not "
            f"import it: {error}. Install it with pip install 'keras>=3', or choose the backend tensorflow."
        ) from error
    if keras3() is None:
        raise ImportError(
            f"Expected Keras 3 {what_for}. The installed `keras` is another version. pip install 'keras>=3'."
        )
    return keras3()


def is_keras3(obj: Any) -> bool:
    """Whether `obj` is an instance of a Keras 3 class or of a subclass of one, or one of Keras 3's own functions."""
    if keras3() is None:
        return False
    classes = type(obj).__mro__
    return any(_of_keras(cls.__module__) for cls in classes) or _of_keras(getattr(obj, "__module__", None))


def is_keras3_model(obj: Any) -> bool:
    """Whether `obj` is a Keras 3 model of any kind."""
    return is_keras3(obj) and isinstance(obj, keras3().Model)


def is_keras3_class(obj: Any) -> bool:
    """Whether `obj` is a Keras 3 class or a subclass of one."""
    return keras3() is not None and isinstance(obj, type) and any(_of_keras(cls.__module__) for cls in obj.__mro__)


def is_keras3_own(obj: Any) -> bool:
    """Whether the class or function `obj` is Keras 3's own, not a subclass in somebody's program."""
    return keras3() is not None and _of_keras(getattr(obj, "__module__", None))


def _of_keras(module: Any) -> bool:
    # tf_keras, keras_hub and the like have other names in front of the first dot.
    return isinstance(module, str) and module.split(".")[0] == "keras"
