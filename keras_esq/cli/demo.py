"""`keras-esq demo`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from keras_esq.cli.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="keras-esq-demo", help="folder for the files (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed, 0 or more (default: %(default)s)")


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    from keras_esq import demo

    result = demo.run(Path(arguments.out), seed=arguments.seed)
    return {name: {row.name: row.accuracy for row in report.rows} for name, report in result["reports"].items()}


COMMAND = Command(
    name="demo",
    help="the whole way on real digits: train, quantize, attack, convert, run",
    description="Train, quantize, attack, convert and run small networks on scikit-learn's digits. Takes minutes.",
    example="keras-esq demo --out keras-esq-demo",
    add_arguments=_add_arguments,
    run=_run,
)
