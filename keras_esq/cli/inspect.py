"""`keras-esq inspect`."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from keras_esq.cli.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="the .tflite file")


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    from keras_esq.conversion import inspect

    summary = inspect(arguments.file)
    print(summary)
    return {"file": arguments.file, "tensors": [dataclasses.asdict(row) for row in summary.rows]}


COMMAND = Command(
    name="inspect",
    help="what a .tflite file stores, tensor by tensor",
    description="Operator, type, stored bits, distinct values and bytes of each constant of a .tflite, and totals.",
    example="keras-esq inspect keras-esq-demo/aet_mcu.tflite",
    add_arguments=_add_arguments,
    run=_run,
)
