"""The folder of a run: what it takes to repeat it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from keras_esq._environment import environment
from keras_esq._files import make_folder, write_atomic


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a command by name, as --config takes them."""
    return {name: value for name, value in vars(arguments).items() if name not in ("run", "config", "command", "json")}


def start(path: str, arguments: argparse.Namespace) -> Path:
    """Make the folder of a run, with options.json and environment.json in it.

    Raises:
        OSError: if it can't be made or written.
    """
    folder = make_folder(path, "the folder of the run")
    write_atomic(folder / "options.json", json.dumps(options(arguments), indent=2) + "\n")
    write_atomic(folder / "environment.json", json.dumps(environment(), indent=2) + "\n")
    return folder
