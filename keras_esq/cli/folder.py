"""The folder of a run: what it takes to repeat it."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from keras_esq._files import write_atomic

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


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a command by name, as --config takes them."""
    return {name: value for name, value in vars(arguments).items() if name not in ("run", "config", "command", "json")}


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


def start(path: str, arguments: argparse.Namespace) -> Path:
    """Make the folder of a run, with options.json and environment.json in it.

    Raises:
        OSError: if it can't be made or written.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "options.json", json.dumps(options(arguments), indent=2) + "\n")
    write_atomic(folder / "environment.json", json.dumps(environment(), indent=2) + "\n")
    return folder
