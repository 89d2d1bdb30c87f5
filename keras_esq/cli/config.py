"""Options from a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_esq import _toml
from keras_esq._checks import near_matches


def read(path: str) -> dict[str, Any]:
    """The options in a .toml, .yaml, .yml or .json file, by name.

    Raises:
        OSError: if it can't be read.
        ValueError: if it is none of these, or holds no options.
        ImportError: if the package that reads it is missing.
    """
    suffix = Path(path).suffix.lower()
    try:
        text = Path(path).read_text(encoding="utf-8")
        if suffix == ".toml":
            content = _toml.loads(text)
        elif suffix in (".yaml", ".yml"):
            content = _yaml(text)
        elif suffix == ".json":
            content = json.loads(text)
        else:
            raise ValueError("its name does not end in .toml, .yaml, .yml or .json")
    except OSError as error:
        raise type(error)(
            f"Expected a file of options. Received {path!r}: {error.strerror}. Check the path."
        ) from error
    except ValueError as error:
        raise ValueError(f"Expected a file of options. Received {path!r}: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected options by name, such as 'epochs: 30'. Received {path!r} with {content!r}.")
    return {str(name).replace("-", "_"): value for name, value in content.items()}


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("Reading .yaml needs pyyaml: pip install pyyaml. Or use .toml or .json.") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def apply(argv: Sequence[str], parsers: dict[str, argparse.ArgumentParser]) -> None:
    """Make the options of the file behind --config the defaults of the command's parser.

    Raises:
        ValueError: for an option that the command does not have, with near matches, or a value that it refuses.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    path = finder.parse_known_args(argv)[0].config
    command = next((word for word in argv if word in parsers), None)
    if path is None or command is None:
        return
    actions = {action.dest: action for action in parsers[command]._actions if action.dest not in ("help", "config")}
    for name, value in read(path).items():
        if name not in actions:
            raise ValueError(
                f"Expected options of 'keras-esq {command}' in {path!r}. Received: {name!r}. "
                f"{near_matches(name, actions)}"
            )
        action = actions[name]
        action.default, action.required = _value(action, name, value, path), False
        if not action.option_strings:
            action.nargs = "?"


def _value(action: argparse.Action, name: str, value: Any, path: str) -> Any:
    """`value` as the command line would have given it."""
    if isinstance(action.const, bool):
        if not isinstance(value, bool):
            raise ValueError(f"Expected true or false for {name!r} in {path!r}. Received: {value!r}.")
        return value
    if value is None:
        return None
    if action.nargs in ("*", "+") or isinstance(action.nargs, int):
        values = value if isinstance(value, list) else [value]
        return [_one(action, name, one, path) for one in values]
    return _one(action, name, value, path)


def _one(action: argparse.Action, name: str, value: Any, path: str) -> Any:
    try:
        converted = action.type(str(value)) if callable(action.type) else str(value)
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"Expected a valid value for {name!r} in {path!r}. Received: {value!r}. {error}") from error
    if action.choices is not None and converted not in action.choices:
        raise ValueError(
            f"Expected {name!r} in {path!r} out of {list(action.choices)}. Received: {value!r}. "
            f"{near_matches(str(value), list(action.choices))}"
        )
    return converted
