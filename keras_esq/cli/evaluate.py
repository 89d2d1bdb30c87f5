"""`keras-esq evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from keras_esq._files import write_atomic
from keras_esq.cli import folder
from keras_esq.cli.command import Command, count, number
from keras_esq.cli.inputs import add_data, load_data, load_model, load_target


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", help="a .tflite file, a saved model (.keras, .h5, SavedModel) or module:function")
    add_data(parser)
    parser.add_argument("--samples", type=count, help="just the first so many test images (default: all)")
    parser.add_argument(
        "--attacks",
        default="quick",
        help="quick, paper, autoattack or blackbox; or corruptions, such as noise and blur (default: %(default)s)",
    )
    parser.add_argument("--eps", type=number, help="radius in input units (default: the set's, 8/255 or 1 in L2)")
    parser.add_argument("--norm", choices=("linf", "l2"), help="of the ball (default: linf)")
    parser.add_argument("--source", help="for a .tflite file, the model behind it: its adversarial images are tried")
    parser.add_argument("--runtime", default="auto", help="that runs a .tflite file (default: the first that can)")
    parser.add_argument("--audit", action="store_true", help="also look for masked gradients (not for .tflite files)")
    parser.add_argument("--batch-size", type=count, default=128, help="images attacked at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed, 0 or more (default: %(default)s)")
    parser.add_argument(
        "--report", metavar="DIR", help="folder for report, picture and options; a killed run goes on from it"
    )


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    from keras_esq.evaluation import evaluate_robustness, masking_audit
    from keras_esq.keras3 import model_at_the_door
    from keras_esq.runtime import Flatbuffer

    target = load_target(arguments.target, arguments.runtime)
    if arguments.audit and isinstance(target, Flatbuffer):
        raise ValueError(
            f"Expected --audit with a Keras model only, as a file has no gradients. Received {arguments.target!r}. "
            "Audit the model behind it."
        )
    if arguments.audit:
        target = model_at_the_door(target)
    source = load_model(arguments.source) if arguments.source else None
    data = load_data(arguments)
    x, y = data.x_test[: arguments.samples], data.y_test[: arguments.samples]
    out = folder.start(arguments.report, arguments) if arguments.report else None
    report = evaluate_robustness(
        target,
        x,
        y,
        attacks=arguments.attacks,
        eps=arguments.eps,
        norm=arguments.norm,
        bounds=data.bounds,
        source=source,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        cache=None if out is None else out / "cache",
        keep_examples=out is not None,
    )
    what = f"{arguments.target}, {len(x)} test images of {arguments.data}, attacks {arguments.attacks!r}"
    if arguments.attacks not in ("paper", "corruptions"):
        what += f", eps {arguments.eps or 'of the set'} ({arguments.norm or 'linf'})"
    print(f"{what}\n\n{report.table()}")
    accuracy = {row.name: row.accuracy for row in report.rows}
    results: dict[str, Any] = {"target": arguments.target, "accuracy": accuracy, "report": arguments.report}
    audit = None
    if arguments.audit:
        settings = {} if arguments.eps is None else {"eps": arguments.eps}
        settings |= {} if arguments.norm is None else {"norm": arguments.norm}
        audit = masking_audit(target, x, y, bounds=data.bounds, seed=arguments.seed, progress=True, **settings)
        print(f"\n{audit.table()}")
        results["failed_audits"] = list(audit.failed)
    if out is not None:
        files = _write(out, what, report, audit)
        print("\nFiles:\n" + "\n".join(f"  {path}" for path in files))
    return results


def _write(out: Path, what: str, report: Any, audit: Any) -> list[Path]:
    """The report's files in the folder `out`."""
    text = [f"# Robustness of {report.target}", "", what, "", report.to_markdown(), "", "Settings:", ""]
    text += [f"- {row.name}: `{row.settings}`" for row in report.rows if row.settings]
    report.to_json(out / "report.json")
    files = [out / "report.json", report.plot(out / "accuracy.png")]
    if any(report.robust["clean"] & ~report.robust["worst case"]):
        files.append(report.plot_examples(out / "examples.png"))
    if audit is not None:
        audit.to_json(out / "audit.json")
        files.append(out / "audit.json")
        text += ["", "## Masked gradients?", "", "```", audit.table(), "```"]
    files.append(write_atomic(out / "report.md", "\n".join(text) + "\n"))
    return files


COMMAND = Command(
    name="evaluate",
    help="accuracy under attack of a model or a .tflite file",
    description=(
        "Accuracy under attack of a Keras model or of a .tflite file. A file has no gradients: of AutoAttack it gets "
        "Square, and with --source the images that all of AutoAttack makes against the model behind it."
    ),
    example="keras-esq evaluate model.keras --data digits --attacks autoattack --eps 0.15 --report report",
    add_arguments=_add_arguments,
    run=_run,
)
