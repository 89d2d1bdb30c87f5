"""`keras-esq experiment`."""

from __future__ import annotations

import argparse
from typing import Any

from keras_esq.cli.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "preset", help="paper, small, smoke, ablation, pruning, frontier, or the path of a TOML file like theirs"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the experiment; one each")
    parser.add_argument("--dataset", metavar="NAME", help="in place of the preset's own")
    parser.add_argument("--model", metavar="NAME", help="network, in place of the preset's own")
    parser.add_argument("--data-path", metavar="PATH", help="where the data set's own files are")
    parser.add_argument("--seeds", type=int, default=1, help="repetitions: 0, 1, ... (default: %(default)s)")
    parser.add_argument("--compare", metavar="DIR", help="end with this experiment beside the one in that folder")


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    from keras_esq import experiment

    if arguments.compare:
        experiment.read_results(arguments.compare)  # a wrong folder shows before hours of work
    report = experiment.run(
        arguments.preset,
        arguments.out,
        dataset=arguments.dataset,
        model=arguments.model,
        data_path=arguments.data_path,
        seeds=arguments.seeds,
    )
    print(f"\n{report}")
    if arguments.compare:
        print(f"\n\n{experiment.compare(arguments.compare, arguments.out).to_text()}")
    print("\nFiles:", *(f"  {path}" for path in report.files), sep="\n")
    tables = report.to_dict()
    return {"tables": tables["tables"], "findings": tables["findings"], "files": [str(path) for path in report.files]}


COMMAND = Command(
    name="experiment",
    help="the paper's tables and figures, or your own ablation",
    description=(
        "Train all models of an experiment, attack them, and write tables and figures beside the paper's own. A killed "
        "experiment goes on when the same command is given again; a finished one only writes its tables anew."
    ),
    example="keras-esq experiment paper --dataset cifar10 --model wrn28-10 --out paper-cifar10",
    add_arguments=_add_arguments,
    run=_run,
)
