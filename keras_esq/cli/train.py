"""`keras-esq train`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from keras_esq._checks import check_seed, near_matches
from keras_esq._files import atomic_path, write_atomic
from keras_esq.cli import folder
from keras_esq.cli.command import Command, count, number, positive
from keras_esq.cli.inputs import add_data, load_data, load_model

OBJECTIVES = ("adversarial_pairing", "pairing", "adversarial", "natural", "trades", "mart", "distillation", "free")
_OPTIMIZERS = {"adam": 0.003, "sgd": 0.05}
_SCHEDULES = ("cosine", "constant")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="a network's name (small_cnn, resnet20, wrn28-10 ...), a saved model or module:function"
    )
    add_data(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the run; one training each")
    parser.add_argument("--resume", action="store_true", help="go on with the training in --out")
    parser.add_argument("--weights", default="ternary", choices=("binary", "ternary", "float"), help="(%(default)s)")
    parser.add_argument(
        "--int8", nargs="+", metavar="LAYER", help="layers of 8 bits, best the first and the last: names or globs"
    )
    parser.add_argument(
        "--objective",
        default="adversarial_pairing",
        choices=OBJECTIVES,
        help="with its default settings (%(default)s)",
    )
    parser.add_argument("--teacher", metavar="MODEL", help="of distillation: a robust float model, named as MODEL is")
    parser.add_argument("--pairing-weight", type=number, help="of the logits' distance (default: the objective's)")
    parser.add_argument("--distance", help="of the logit pairing (default: the objective's)")
    parser.add_argument("--eps", type=number, default=8 / 255, help="of PGD, in input units (%(default).4f)")
    parser.add_argument("--step-size", type=number, help="of PGD (default: eps / 4)")
    parser.add_argument("--steps", type=count, default=10, help="of PGD (%(default)s)")
    parser.add_argument("--norm", default="linf", choices=("linf", "l2"), help="of PGD (%(default)s)")
    parser.add_argument("--ratio", default="uniform", choices=("uniform", "exponential", "full"), help="(%(default)s)")
    parser.add_argument("--epochs", type=count, default=30, help="(%(default)s)")
    parser.add_argument("--batch-size", type=count, default=64, help="(%(default)s)")
    parser.add_argument("--optimizer", default="adam", choices=tuple(_OPTIMIZERS), help="(%(default)s)")
    parser.add_argument("--learning-rate", type=positive, help="(default: adam 0.003, sgd 0.05)")
    parser.add_argument("--schedule", default="cosine", choices=_SCHEDULES, help="of the learning rate (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order, partitions, attacks (%(default)s)")


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    from keras_esq._keras import keras
    from keras_esq.training import Backup, QuantizationRatio
    from keras_esq.training.progress import EpochProgress

    _check_folder(arguments)
    data = load_data(arguments)
    keras.utils.set_random_seed(check_seed("seed", arguments.seed))
    model = _model(arguments, data)
    _check_data(model, data)
    out = folder.start(arguments.out, arguments)  # not before: after a mistake the folder would belong to it
    backup = Backup(out / "backup")
    done = backup.restore(model)
    if done:
        print(f"Going on after epoch {done} of {arguments.epochs}.")
    batches = _batches(arguments, data, done)
    callbacks = [backup, keras.callbacks.CSVLogger(str(out / "metrics.csv"), append=True)]
    if arguments.weights != "float":
        callbacks.append(QuantizationRatio(arguments.ratio))
    with tqdm(total=arguments.epochs, initial=done, unit="epoch") as bar:
        model.fit(
            **batches,
            epochs=arguments.epochs,
            initial_epoch=done,
            validation_data=(data.x_val, data.y_val),
            verbose=0,
            # Last: the state that it saves is that after all others.
            callbacks=[EpochProgress(bar), *reversed(callbacks)],
        )
    path = out / "model.keras"
    with atomic_path(path) as temporary:
        model.save(temporary)
    figures = {
        name: float(value)
        for name, value in model.evaluate(data.x_val, data.y_val, verbose=0, return_dict=True).items()
    }
    write_atomic(out / "results.json", json.dumps(figures, indent=2) + "\n")
    print("  ".join(f"{name} {value:.4f}" for name, value in figures.items()), "on the validation images")
    print(f"\nFiles:\n  {path}\n  {out / 'metrics.csv'}")
    return {"model": str(path), "epochs": arguments.epochs, "validation": figures}


def _check_folder(arguments: argparse.Namespace) -> None:
    """Raise OSError or ValueError unless --out is new, or with --resume has the same training."""
    note = Path(arguments.out) / "options.json"
    if note.exists():
        if not arguments.resume:
            raise FileExistsError(
                f"Expected a folder without a training. Received {arguments.out!r}, which has one. Add --resume to go "
                "on with it, or choose another folder."
            )
        old, new = json.loads(note.read_text()), folder.options(arguments)
        other = [name for name in new if name not in ("out", "resume") and old.get(name) != new[name]]
        if other:
            raise ValueError(
                f"Expected the options of the training in {arguments.out!r}, see its options.json. Received other "
                f"values of: {', '.join(other)}. Leave them as they were (--config {note}), or choose another folder."
            )
    elif arguments.resume and Path(arguments.out).exists() and any(Path(arguments.out).iterdir()):
        raise FileNotFoundError(
            f"Expected a training in {arguments.out!r}. There is no options.json in it. Check the path."
        )


def _model(arguments: argparse.Namespace, data: Any) -> Any:
    """The compiled ErrorSilencedModel."""
    from keras_esq._keras import keras
    from keras_esq.attacks import PGD
    from keras_esq.quantize import quantize_model
    from keras_esq.training import ErrorSilencedModel
    from keras_esq.training.objectives import build

    network = _network(arguments.model, data)
    if arguments.weights == "float" and arguments.int8:
        raise ValueError(
            "Expected --int8 with --weights binary or ternary, whose exceptions they are. Received --weights float."
        )
    if arguments.weights != "float":
        network = quantize_model(network, {**dict.fromkeys(arguments.int8 or (), "int8"), "*": arguments.weights})
    elif isinstance(network, ErrorSilencedModel):
        network = network.network
    objective, pairing = arguments.objective, {}
    if (objective == "distillation") != bool(arguments.teacher):
        raise ValueError(
            "Expected --teacher MODEL, a robust float model, with --objective distillation and no other. Received "
            f"--objective {objective} {'with' if arguments.teacher else 'without'} --teacher."
        )
    teacher = {"teacher": load_model(arguments.teacher)} if arguments.teacher else {}
    rule = build(objective, **teacher)
    for option, key in (("pairing_weight", "weight"), ("distance", "distance")):
        value = getattr(arguments, option)
        if value is not None:
            if not rule.pairs:
                raise ValueError(
                    f"Expected --{option.replace('_', '-')} with an objective that pairs, adversarial_pairing or "
                    f"pairing. Received --objective {objective}. Leave it out, or choose one of them."
                )
            pairing[key] = value
    step_size = arguments.eps / 4 if arguments.step_size is None else arguments.step_size
    attack = PGD(eps=arguments.eps, step_size=step_size, steps=arguments.steps, norm=arguments.norm, bounds=data.bounds)
    model = ErrorSilencedModel(
        network,
        attack=None if objective == "natural" else attack,
        pairing=dataclasses.replace(rule.default_pairing, **pairing) if rule.pairs else None,
        objective=rule,
        validation_attack=attack,
        seed=arguments.seed,
    )
    rate = _OPTIMIZERS[arguments.optimizer] if arguments.learning_rate is None else arguments.learning_rate
    if arguments.schedule == "cosine":
        steps = arguments.epochs * -(-len(data.x_train) // arguments.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    optimizer = keras.optimizers.Adam(rate) if arguments.optimizer == "adam" else keras.optimizers.SGD(rate, 0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _check_data(model: Any, data: Any) -> None:
    """Raise ValueError, as `fit` would, if the data do not fit the model."""
    from keras_esq.training.data_checks import check_arrays

    network = model.network
    for x, y in ((data.x_train, data.y_train), (data.x_val, data.y_val)):
        check_arrays(x, y, data.bounds, network.input_shape, network.output_shape[-1], "ids")


def _network(text: str, data: Any) -> Any:
    """A network by its name, or a model as `load_model` finds it."""
    from keras_esq import models

    if not Path(text).exists() and ":" not in text and not text.endswith((".keras", ".h5")):
        try:
            return models.build(text, data.input_shape, data.classes)
        except ValueError as error:
            if "Expected the name of a network" not in str(error):
                raise
            raise ValueError(
                f"Expected a network's name, a saved model (.keras, .h5, SavedModel) or module:function. Received "
                f"{text!r}. {near_matches(text, models.NAMES)}"
            ) from error
    return load_model(text)


def _batches(arguments: argparse.Namespace, data: Any, done: int) -> dict[str, Any]:
    """What `fit` is given: arrays, or augmented batches."""
    from keras_esq.data import pipeline, steps_per_epoch

    if data.augment == "none":
        return {"x": data.x_train, "y": data.y_train, "batch_size": arguments.batch_size}
    stream = pipeline(
        data.x_train, data.y_train, arguments.batch_size, augment=data.augment, seed=arguments.seed, first_epoch=done
    )
    return {"x": stream, "steps_per_epoch": steps_per_epoch(len(data.x_train), arguments.batch_size)}


COMMAND = Command(
    name="train",
    help="quantize a network and train it error-silenced",
    description=(
        "Quantize a network to 1 or 2 bits and train it so that adversarial noise is not amplified. A killed training "
        "goes on with --resume, to the same weights as if it had never stopped."
    ),
    example="keras-esq train small_cnn --data digits --weights ternary --eps 0.15 --epochs 30 --out run",
    add_arguments=_add_arguments,
    run=_run,
)
