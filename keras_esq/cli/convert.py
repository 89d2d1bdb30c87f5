"""`keras-esq convert`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from keras_esq.cli.command import Command, count
from keras_esq.cli.inputs import add_data, add_model, load_data, load_model


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "model", "the model")
    parser.add_argument("path", help="the .tflite file to write")
    parser.add_argument("--target", default="phone", help="see below (default: %(default)s)")
    add_data(parser)
    parser.add_argument(
        "--samples", type=count, default=200, help="training images for calibration (default: %(default)s)"
    )
    parser.add_argument("--weights", default="auto", help="auto, int8, int4 or int2, where the target has a choice")
    parser.add_argument("--io", default="int8", choices=("int8", "uint8", "float32"), help="type of input and output")
    parser.add_argument("--c-array", action="store_true", help="also write the file as C source (target mcu)")
    parser.add_argument("--ram-budget", type=count, metavar="BYTES", help="largest arena (target mcu)")
    parser.add_argument(
        "--over-budget",
        default="int8",
        choices=("int8", "error"),
        help="beyond it: int8 in place of look-up tables for the largest layers, or an error (default: %(default)s)",
    )
    parser.add_argument(
        "--accelerator", metavar="NPU", help="compile with Vela, for ethos-u55-128 say (target ethos-u)"
    )
    parser.add_argument("--report", metavar="FILE", help="report.json of an evaluation, noted in the file")


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    from keras_esq.conversion import convert, inspect
    from keras_esq.evaluation import RobustnessReport
    from keras_esq.keras3 import model_at_the_door

    if Path(arguments.path).resolve() == Path(arguments.model).resolve():
        raise ValueError(
            f"Expected another path for the .tflite file than the model's. Received {arguments.path!r} for both, which "
            "would overwrite the model."
        )
    model, data = model_at_the_door(load_model(arguments.model)), load_data(arguments)
    report = RobustnessReport.from_json(arguments.report) if arguments.report else None
    file = convert(
        model,
        arguments.path,
        target=arguments.target,
        calibration=data.x_train[: arguments.samples],
        io=arguments.io,
        bounds=data.bounds,
        weights=arguments.weights,
        c_array=arguments.c_array,
        ram_budget=arguments.ram_budget,
        over_budget=arguments.over_budget,
        accelerator=arguments.accelerator,
        labels=data.class_names,
        report=report,
    )
    print(inspect(arguments.path))
    results: dict[str, Any] = {"path": arguments.path, "target": arguments.target, "bytes": file.num_bytes}
    if file.agreement is not None:
        print(f"\nAgreement with the Keras model on {file.agreement.samples} images\n\n{file.agreement.table()}")
        results["top1_agreement"] = file.agreement.top1
    if file.compiler_report is not None:
        print(f"\n{file.compiler_report}")
        results["compiled"] = None if file.compiler_report.compiled is None else str(file.compiler_report.compiled)
    if arguments.accelerator:
        results["vela"] = file.compiler_report.to_dict()
    return results


COMMAND = Command(
    name="convert",
    help="a Keras model to a .tflite file for a device, checked",
    description=(
        "Write a .tflite file and check it at once against the Keras model. Targets: float, phone, phone-small, mcu, "
        "edgetpu, ethos-u."
    ),
    example="keras-esq convert model.keras model.tflite --target mcu --data digits",
    add_arguments=_add_arguments,
    run=_run,
)
