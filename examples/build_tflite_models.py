"""Train, convert, attack and describe the files in tflite_models/.

    python examples/build_tflite_models.py                           # digits only: needs no data
    python examples/build_tflite_models.py --mnist mnist.npz --cifar10 cifar10.npz

Takes minutes (digits) to an hour (all) on two cores. Checkpoints are kept in --work: a killed run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import tf_keras

import keras_esq as esq
from keras_esq.training import Backup


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one network is trained, and which files are made of it.

    Attributes:
        data: name of the data set.
        train, test: numbers of training and test images used; None for all.
        width: of `small_cnn`.
        eps: of the attacks, L-inf, in input units.
        steps: of PGD in training.
        float_epochs, epochs: of the float adversarial network, and of each low-bit one from it.
        files: (weights, target) of each file.
        square: images and queries of the Square attack on the file itself, which takes long in a microcontroller's
            interpreter.
    """

    data: str
    train: int | None
    test: int
    width: int
    eps: float
    steps: int
    float_epochs: int
    epochs: int
    files: tuple[tuple[str, str], ...]
    square: tuple[int, int] = (200, 1000)


RECIPES = {
    "digits": Recipe(
        "digits", None, 400, 32, 0.15, 7, 40, 80,
        (("binary", "mcu"), ("ternary", "mcu"), ("ternary", "phone"), ("ternary", "phone-small")),
    ),
    "mnist": Recipe("mnist", 20_000, 500, 16, 0.1, 5, 8, 10, (("binary", "mcu"), ("ternary", "mcu"))),
    "cifar10": Recipe(
        "cifar10", None, 300, 32, 4 / 255, 5, 5, 5,
        (("ternary", "mcu"), ("ternary", "phone-small"), ("ternary", "ethos-u")), (60, 300),
    ),
}  # fmt: skip
BATCH, RATE, SEED = 64, 0.003, 0
RATIO = {0: 0.5, 1: 0.75, 2: 1.0}
_CLEAN_OF_SQUARE = "clean of Square's images"
FOLDER = Path(__file__).resolve().parents[1] / "tflite_models"


def load(recipe: Recipe, path: str | None):
    """The data set, cut to the recipe's numbers of images."""
    data = esq.data.load(recipe.data, path)
    return dataclasses.replace(
        data,
        x_train=data.x_train[: recipe.train],
        y_train=data.y_train[: recipe.train],
        x_test=data.x_test[: recipe.test],
        y_test=data.y_test[: recipe.test],
    )


def train(recipe: Recipe, data, name: str, network, epochs: int, objective: str, work: Path):
    """The trained ErrorSilencedModel, from its checkpoint as far as it goes; and the seconds that this took."""
    attack = esq.attacks.PGD(eps=recipe.eps, step_size=recipe.eps / 4, steps=recipe.steps)
    model = esq.ErrorSilencedModel(network, attack=attack, objective=objective, seed=SEED, name=name)
    steps = esq.data.steps_per_epoch(len(data.x_train), BATCH)
    rate = tf_keras.optimizers.schedules.CosineDecay(RATE, epochs * steps)
    model.compile(tf_keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    backup = Backup(work / name)
    done = backup.restore(model)
    callbacks = [backup] if objective == "adversarial" else [esq.QuantizationRatio(RATIO), backup]
    stream = esq.data.pipeline(data.x_train, data.y_train, BATCH, augment=data.augment, seed=SEED, first_epoch=done)
    start = time.time()
    model.fit(stream, steps_per_epoch=steps, epochs=epochs, initial_epoch=done, verbose=2, callbacks=callbacks)
    seconds = time.time() - start
    note = work / name / "seconds.txt"
    seconds += float(note.read_text()) if note.exists() and done else 0.0
    note.write_text(f"{seconds:.0f}")
    return model, seconds


def evaluate(recipe: Recipe, data, model, work: Path):
    """The report of the Keras model under PGD and AutoAttack, with its adversarial images."""
    eps = recipe.eps
    attacks = {
        "PGD": esq.attacks.PGD(eps=eps, step_size=eps / 8, steps=40, restarts=3),
        "AutoAttack": esq.attacks.AutoAttack(eps=eps),
    }
    return esq.evaluate_robustness(
        model, data.x_test, data.y_test, attacks=attacks, seed=SEED, keep_examples=True, cache=work / "cache"
    )


def file_accuracy(file, data, images) -> float:
    """Share of test images that the file gets right, and on which `images` don't fool it."""
    right = file.predict(data.x_test).argmax(axis=1) == data.y_test
    return float(np.mean(right & (file.predict(images).argmax(axis=1) == data.y_test)))


def describe(recipe: Recipe, data, model, report, file, seconds: float) -> dict:
    """The facts of a file's card."""
    images, queries = recipe.square
    few, square = slice(0, images), esq.attacks.Square(eps=recipe.eps, query_budget=queries)
    black_box = esq.evaluate_robustness(
        file, data.x_test[few], data.y_test[few], attacks={"Square": square}, seed=SEED, progress=False
    )
    content = Path(file.path).read_bytes()
    return {
        "data": recipe.data,
        "recipe": dataclasses.asdict(recipe) | {"files": None},
        "target": file.metadata["target"],
        "bits": file.metadata["bits"],
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "runtime": file.runtime,
        "training_images": len(data.x_train),
        "test_images": len(data.x_test),
        "seconds": round(seconds),
        "keras": {name: round(report.accuracy(name), 4) for name in ("clean", "PGD", "AutoAttack")},
        "file": {
            "clean": round(file_accuracy(file, data, data.x_test), 4),
            "PGD": round(file_accuracy(file, data, report.x_adv["PGD"]), 4),
            "AutoAttack": round(file_accuracy(file, data, report.x_adv["AutoAttack"]), 4),
            _CLEAN_OF_SQUARE: round(black_box.accuracy("clean"), 4),
            "Square": round(black_box.accuracy("Square"), 4),
        },
    }


def card(name: str, facts: dict) -> str:
    """The Markdown card of a file; its last block is the same as JSON, for programs."""
    recipe, keras, file = facts["recipe"], facts["keras"], facts["file"]
    images, queries = recipe["square"]
    bits = sorted(set(facts["bits"].values()))
    lines = [
        f"# {name}.tflite",
        "",
        f'`small_cnn(width={recipe["width"]})` for {facts["data"]}, target "{facts["target"]}", weights of '
        f"{' and '.join(f'{b:g}' for b in bits)} bits, {facts['bytes']:,} bytes. Made by "
        "`examples/build_tflite_models.py`.",
        "",
        f"- Data: {facts['data']}, {facts['training_images']:,} training images, {facts['test_images']} test images.",
        f"- Recipe: float network {recipe['float_epochs']} epochs on PGD-{recipe['steps']} images of eps "
        f"{recipe['eps']:.4g}, then error-silenced {recipe['epochs']} epochs (logit pairing), Adam {RATE} with a "
        f"cosine schedule, batch {BATCH}, seed {SEED}; {facts['seconds']} seconds of training.",
        "- Input: images in [0, 1]; output: logits. Quantized to int8 unless the target has float activations.",
        f"- sha256: `{facts['sha256']}`",
        "",
        f"Accuracy in %, attacks L-inf with eps {recipe['eps']:.4g}. The file is given the images that were made "
        f"against the Keras model; Square ({queries} queries) attacks the file itself ({facts['runtime']}), on "
        f"{images} images, of which it gets {100 * file[_CLEAN_OF_SQUARE]:.1f} right unattacked.",
        "",
        "| | clean | PGD-40 x 3 | AutoAttack | Square on the file |",
        "|---|---:|---:|---:|---:|",
        f"| Keras | {100 * keras['clean']:.1f} | {100 * keras['PGD']:.1f} | {100 * keras['AutoAttack']:.1f} | - |",
        f"| file | {100 * file['clean']:.1f} | {100 * file['PGD']:.1f} | {100 * file['AutoAttack']:.1f} | "
        f"{100 * file['Square']:.1f} |",
        "",
        "```json",
        json.dumps(facts, indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)


def build(name: str, recipe: Recipe, path: str | None, work: Path, out: Path) -> None:
    """All files of one recipe, with their cards."""
    data = load(recipe, path)
    tf_keras.utils.set_random_seed(SEED)
    network = esq.models.small_cnn(data.input_shape, data.classes, recipe.width)
    robust, seconds = train(recipe, data, f"{name}_float", network, recipe.float_epochs, "adversarial", work)
    trained = {}
    for weights, target in recipe.files:
        if weights not in trained:
            low_bit = esq.quantize_model(robust, weights)
            model, more = train(recipe, data, f"{name}_{weights}", low_bit, recipe.epochs, "pairing", work)
            trained[weights] = model, evaluate(recipe, data, model, work), seconds + more
            print(trained[weights][1].table())
        model, report, total = trained[weights]
        title = f"{name}_{weights}_{target}"
        file = esq.convert(
            model,
            out / f"{title}.tflite",
            target=target,
            calibration=data.x_train[:200],
            bounds=data.bounds,
            labels=data.class_names,
            report=report,
        )
        facts = describe(recipe, data, model, report, file, total)
        (out / f"{title}.md").write_text(card(title, facts))
        print(title, facts["bytes"], facts["keras"], facts["file"])


def main() -> None:
    """Build what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", help="MNIST's files, see esq.data.load")
    parser.add_argument("--cifar10", help="CIFAR-10's files, see esq.data.load")
    parser.add_argument("--only", choices=RECIPES, nargs="+", help="default: digits, and those whose files are given")
    parser.add_argument("--work", type=Path, default=Path("runs/tflite_models"), help="checkpoints (%(default)s)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the files (%(default)s)")
    arguments = parser.parse_args()
    paths = {"digits": None, "mnist": arguments.mnist, "cifar10": arguments.cifar10}
    wanted = arguments.only or [name for name, path in paths.items() if path or name == "digits"]
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        build(name, RECIPES[name], paths[name], arguments.work, arguments.out)


if __name__ == "__main__":
    main()
