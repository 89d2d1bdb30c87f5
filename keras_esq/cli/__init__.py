"""The command line: `keras-esq demo|train|evaluate|convert|inspect|experiment|tune`."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Sequence

import keras_esq
from keras_esq.cli import config, convert, demo, evaluate, experiment, inspect, train, tune
from keras_esq.cli.command import Command
from keras_esq.cli.native import native_notes

COMMANDS: tuple[Command, ...] = (
    demo.COMMAND,
    train.COMMAND,
    evaluate.COMMAND,
    convert.COMMAND,
    inspect.COMMAND,
    experiment.COMMAND,
    tune.COMMAND,
)

# Errors whose message says what to do; anything else is a defect and comes with its traceback.
_EXPLAINED = (ValueError, TypeError, OSError, ImportError, RuntimeError)


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and that of each command."""
    parser = argparse.ArgumentParser(
        prog="keras-esq", description="Make Keras image classifiers small and hard to fool, and prove it."
    )
    parser.add_argument("--version", action="version", version=f"keras-esq {keras_esq.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {}
    for command in COMMANDS:
        one = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog=f"example: {command.example}",
        )
        command.add_arguments(one)
        one.add_argument("--json", action="store_true", help="end with the results as one line of JSON")
        one.add_argument("--config", metavar="FILE", help="options from a .toml, .yaml or .json file; those given win")
        one.set_defaults(run=command.run)
        parsers[command.name] = one
    return parser, parsers


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit code: 0 for success, 1 for an error, which is printed in one line, 130 for an interruption. Wrong
        arguments exit with 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser, parsers = _parser()
    # TensorFlow's own notes (which instructions its build uses) bury the tables.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        config.apply(argv, parsers)
        arguments = parser.parse_args(argv)
        with native_notes(_EXPLAINED):
            results = arguments.run(arguments)
        if arguments.json:
            print(json.dumps(results))
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except _EXPLAINED as error:
        print(f"keras-esq: {_message(error)}", file=sys.stderr)
        return 1
    return 0


def _message(error: Exception) -> str:
    """The message of `error`, without the stack of lines that AutoGraph puts before it where it traced a function."""
    text = str(error)
    _, traced, rest = text.rpartition("in user code:\n")  # the last: layers inside of layers each add a stack
    file = re.search(r"^( +)File ", rest, re.MULTILINE)
    if not traced or file is None:
        return text
    # Below the frames, at their indentation, stands "ValueError: ..."; lines of code are indented further.
    start = re.search(rf"^{file[1]}\w+: ", rest, re.MULTILINE)
    if start is None:
        return text
    message = re.sub(rf"^ {{1,{len(file[1])}}}", "", rest[start.end() :], flags=re.MULTILINE)
    return message.partition("\n\nCall arguments received")[0].strip()
