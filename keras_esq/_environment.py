"""What a result was made with."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any

_PACKAGES = (
    "keras-esq",
    "tensorflow",
    "tf-keras",
    "tensorflow-model-optimization",
    "cleverhans",
    "numpy",
    "ai-edge-litert",
    "tflite-runtime",
    "tflite-micro",
    "keras-tuner",
)


def environment() -> dict[str, Any]:
    """Versions of Python, of the packages that matter, and the machine."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": versions,
        "command": sys.argv,
    }
