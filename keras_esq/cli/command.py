"""What a command is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_esq import _text


@dataclass(frozen=True)
class Command:
    """One command of `keras-esq`.

    Attributes:
        name: as it is typed.
        help: half a line, for the list of commands.
        description: for its own --help.
        example: a whole command line.
        add_arguments: adds its arguments to its parser.
        run: does it, prints what people read, and returns its results as plain data, for --json.
    """

    name: str
    help: str
    description: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], dict[str, Any]]


def number(text: str) -> float:
    """The `type=` of a number. argparse keeps its own words for a ValueError, which help nobody."""
    try:
        return _text.number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> float:
    """The `type=` of a number > 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"Expected a number > 0. Received: {text!r}.")
    return value


def count(text: str) -> int:
    """The `type=` of what is counted, 1 or more; below that a slice or a loop would silently mean something else."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"Expected an integer >= 1. Received: {text!r}.")
    return value
