"""The one door to keras-tuner, which is an optional requirement."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

try:
    import keras_tuner
except ImportError as error:
    raise ImportError(
        f"Tuning needs keras-tuner, which could not be imported ({error}). Install it: pip install 'keras-esq[tuner]'"
    ) from error

kt: Any = keras_tuner


@contextlib.contextmanager
def without_tracebacks() -> Iterator[None]:
    """keras-tuner prints a traceback for each trial that fails, be it only too large; we print its reason.

    Its flag has no public name. Should it move, tracebacks come back, and a test fails.
    """
    from keras_tuner.src import config

    before = config.DEBUG
    config.DEBUG = False
    try:
        yield
    finally:
        config.DEBUG = before


__all__ = ["kt", "without_tracebacks"]
