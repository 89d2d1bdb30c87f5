"""What a result was made with."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
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
        "processor": _processor(),
        "cores": os.cpu_count(),
        "packages": versions,
        "command": sys.argv,
    }


def _processor() -> str:
    """Its name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
