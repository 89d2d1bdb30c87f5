"""`keras-esq tune`: arguments and what it does; keras-tuner is imported when it runs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from keras_esq.cli.command import Command, count, number
from keras_esq.cli.inputs import add_data, add_model, find_function, load_data, load_model

_TUNERS = {"random": "RandomSearch", "hyperband": "Hyperband", "bayesian": "BayesianOptimization", "grid": "GridSearch"}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `keras-esq tune`."""
    add_model(parser, "model", "the float network, or a function (hp) that builds it")
    add_data(parser)
    parser.add_argument("--samples", type=count, help="just the first so many training images (default: all)")
    parser.add_argument("--tuner", default="random", choices=tuple(_TUNERS), help="the strategy (default: %(default)s)")
    parser.add_argument(
        "--objective",
        nargs="+",
        default=["val_adversarial_accuracy"],
        metavar="NAME",
        help="val_adversarial_accuracy, val_accuracy, file_bytes or several of them (default: the first)",
    )
    parser.add_argument(
        "--max-trials", type=count, default=20, help="settings to try; hyperband counts itself (default: %(default)s)"
    )
    parser.add_argument("--max-bytes", type=count, metavar="BYTES", help="don't train models that are larger")
    parser.add_argument(
        "--epochs", type=count, default=30, help="of a trial; of hyperband's last round (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=count, default=128, help="images of a step (default: %(default)s)")
    parser.add_argument("--eps", type=number, help="radius of the attack in input units (default: 8/255)")
    parser.add_argument("--out", default="keras-esq-tune", help="folder of the search (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="delete the search in the folder and begin anew")
    parser.add_argument("--seed", type=int, default=0, help="random seed, 0 or more (default: %(default)s)")


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Search, print the table, write results.json, best.keras and with several objectives pareto.png to --out.

    Returns:
        Plain data: the objectives, all trials, the ids of the best one and of the Pareto front, and the files.

    Raises:
        ImportError: without keras-tuner.
        ValueError, TypeError, OSError, RuntimeError: as the tuners and loaders do.
    """
    from keras_esq import tuning
    from keras_esq.training.progress import EpochProgress

    data = load_data(arguments)
    hypermodel = tuning.RobustHyperModel(_build_fn(arguments.model), attack=_attack(arguments.eps, data.bounds))
    tuner = _tuner(arguments, hypermodel)
    epochs = {} if arguments.tuner == "hyperband" else {"epochs": arguments.epochs}
    with tqdm(unit="epoch", total=_epochs(arguments)) as bar:
        tuner.search(
            data.x_train[: arguments.samples],
            data.y_train[: arguments.samples],
            validation_data=(data.x_val, data.y_val),
            batch_size=arguments.batch_size,
            callbacks=[EpochProgress(bar, ("val_accuracy", "val_adversarial_accuracy"))],
            verbose=0,
            **epochs,
        )
    results = tuner.results()
    print(f"{arguments.model} on {len(data.x_train[: arguments.samples])} images of {arguments.data}\n\n{results}")
    return {**results.to_dict(), "files": [str(path) for path in _write(tuner, results, Path(arguments.out))]}


def _tuner(arguments: argparse.Namespace, hypermodel: Any) -> Any:
    from keras_esq import tuning

    out = Path(arguments.out)
    limit = {"max_epochs": arguments.epochs} if arguments.tuner == "hyperband" else {"max_trials": arguments.max_trials}
    return getattr(tuning, _TUNERS[arguments.tuner])(
        hypermodel,
        objective=list(arguments.objective),
        max_bytes=arguments.max_bytes,
        seed=arguments.seed,
        directory=out.parent,
        project_name=out.name,
        overwrite=arguments.overwrite,
        **limit,
    )


def _write(tuner: Any, results: Any, out: Path) -> list[Path]:
    from keras_esq._files import atomic_path

    files = [results.to_json(out / "results.json"), out / "best.keras"]
    with atomic_path(files[1]) as path:
        tuner.get_best_models()[0].save(path)
    if len(results.goals) > 1:
        files.append(results.plot(out / "pareto.png"))
        print(f"\nPareto front\n\n{results.pareto_table()}")
    print("\nFiles:", *(f"  {path}" for path in files), sep="\n")
    return files


def _attack(eps: float | None, bounds: tuple[float, float]) -> Any:
    from keras_esq.attacks import PGD

    return PGD(bounds=bounds) if eps is None else PGD(eps=eps, step_size=eps / 4, bounds=bounds)


def _build_fn(text: str) -> Any:
    """What `text` names: a saved model, or a function () or (hp), which is not called yet."""
    return load_model(text) if os.path.exists(text) else find_function(text)


def _epochs(arguments: argparse.Namespace) -> int | None:
    """Epochs of the whole search; not known for grids and Hyperband."""
    return arguments.max_trials * arguments.epochs if arguments.tuner in ("random", "bayesian") else None


COMMAND = Command(
    name="tune",
    help="search for pairing, bits, schedule, learning rate and attack steps",
    description=(
        "Search with keras-tuner for the settings of a small, robust low-bit network. An interrupted search goes on "
        "when the same command is given again."
    ),
    example="keras-esq tune keras_esq.models:small_cnn --data digits --max-trials 20 --max-bytes 8000 --out tuning",
    add_arguments=_add_arguments,
    run=_run,
)
