"""The command line: `keras-esq demo`, `keras-esq inspect`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras_esq


def _demo(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    with _native_notes(out / "native.log"):
        from keras_esq import demo

        demo.run(out, seed=arguments.seed)


@contextlib.contextmanager
def _native_notes(log: Path) -> Iterator[None]:
    """Send what TensorFlow's native libraries print to a file; Python's own messages stay on the terminal.

    They write to the process' stderr past Python, dozens of lines that bury tables and progress bars.
    """
    python, kept = sys.stderr, os.dup(2)
    with open(log, "w") as file, os.fdopen(os.dup(kept), "w", buffering=1) as terminal:
        try:
            os.dup2(file.fileno(), 2)
            if python is sys.__stderr__:
                sys.stderr = terminal
            yield
        finally:
            sys.stderr = python
            os.dup2(kept, 2)
            os.close(kept)


def _inspect(arguments: argparse.Namespace) -> None:
    from keras_esq.conversion import inspect

    print(inspect(arguments.file))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-esq", description="Make Keras image classifiers small and hard to fool, and prove it."
    )
    parser.add_argument("--version", action="version", version=f"keras-esq {keras_esq.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="the whole way on real digits: train, quantize, attack, convert, run",
        description="Train, quantize, attack, convert and run small networks on scikit-learn's digits. Takes minutes.",
        epilog="example: keras-esq demo --out keras-esq-demo",
    )
    demo.add_argument("--out", default="keras-esq-demo", help="folder for the files (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="random seed, 0 or more (default: %(default)s)")
    demo.set_defaults(run=_demo)

    inspect = commands.add_parser(
        "inspect",
        help="what a .tflite file stores, tensor by tensor",
        description="Operator, type, stored bits, distinct values and bytes of each constant of a .tflite, and totals.",
        epilog="example: keras-esq inspect keras-esq-demo/aet_mcu.tflite",
    )
    inspect.add_argument("file", help="the .tflite file")
    inspect.set_defaults(run=_inspect)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit code: 0 for success, 1 for an error, which is printed in one line, 130 for an interruption. Wrong
        arguments exit with 2.
    """
    arguments = _parser().parse_args(argv)
    # TensorFlow's own notes (which instructions its build uses) bury the tables.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        print(f"keras-esq: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
