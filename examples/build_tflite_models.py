"""Convert, attack and describe the files in tflite_models/: the first seed's networks of the preset "frontier".

    keras-esq experiment frontier --dataset digits --seeds 3 --out runs/frontier-digits
    python examples/build_tflite_models.py runs/frontier-digits

For MNIST and CIFAR-10 the same with `--data-path` in both commands, where the data set's files are. Minutes a folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

import keras_esq as esq
from keras_esq.experiment.attacks_in import build_attack
from keras_esq.experiment.evaluate import REPORT
from keras_esq.experiment.running import load_data
from keras_esq.experiment.train import trained


@dataclasses.dataclass(frozen=True)
class Files:
    """What is made of the networks of a data set.

    Attributes:
        files: (network of the experiment, target) of each file.
        images: the file is given what AutoAttack makes of the first so many test images against its Keras model.
        square: first so many images, and queries, of the Square attack on the file itself, which takes long in a
            microcontroller's interpreter.
    """

    files: tuple[tuple[str, str], ...]
    images: int = 200
    square: tuple[int, int] = (100, 300)


FILES = {
    "digits": Files((("binary", "mcu"), ("ternary", "mcu"), ("ternary", "phone"), ("ternary", "phone-small"))),
    "mnist": Files((("binary", "mcu"), ("ternary", "mcu"))),
    "cifar10": Files((("binary", "mcu"), ("ternary", "mcu"), ("ternary", "phone-small"), ("ternary", "ethos-u"))),
}
SOURCE, SEED = "AF", 0
_FEW = "clean, Square's images"
FOLDER = Path(__file__).resolve().parents[1] / "tflite_models"


def measured(results: Any, name: str) -> dict[str, float]:
    """Accuracies of a network of the experiment, of the seed that is published."""
    white, ensemble = results.of(name, "attacks")[SEED], results.of(name, "ensemble")[SEED]
    counts = {
        "clean": (white["correct"]["clean"], white["n"]),
        "PGD": (ensemble["correct"]["white box"], ensemble["n"]),  # of AutoAttack's images, so that they compare
        "AutoAttack": (ensemble["correct"]["AutoAttack"], ensemble["n"]),
    }
    return {key: round(right / n, 4) for key, (right, n) in counts.items()}


def attacked(recipe: Files, data: Any, attack: Any, x_adv: np.ndarray, file: Any) -> dict[str, float]:
    """Accuracies of the file on the images that attack it: AutoAttack's against its Keras model, and Square's."""
    x, y = data.x_test[: recipe.images], data.y_test[: recipe.images]
    right = file.predict(x).argmax(axis=1) == y
    stands = right & (file.predict(x_adv).argmax(axis=1) == y)
    images, queries = recipe.square
    square = esq.attacks.Square(eps=attack.eps, query_budget=queries)
    report = esq.evaluate_robustness(file, x[:images], y[:images], attacks={"Square": square}, seed=SEED)
    shares = {"clean": right.mean(), "AutoAttack": stands.mean()}
    shares |= {_FEW: report.accuracy("clean"), "Square": report.accuracy("Square")}
    return {name: round(float(share), 4) for name, share in shares.items()}


def described(recipe: Any) -> str:
    """The recipe in words, with what a preset sets for some data sets alone."""
    gamma = recipe.weight_perturbation
    return recipe.what + (f", weights perturbed by {gamma:g} of their norms" if gamma else "")


def facts_of(
    name: str, recipe: Files, data: Any, results: Any, attack: Any, x_adv: np.ndarray, file: Any
) -> dict[str, Any]:
    """The facts of a file's card."""
    content = Path(file.path).read_bytes()
    right = file.predict(data.x_test).argmax(axis=1) == data.y_test
    return {
        "data": results.config.data.name,
        "network": results.config.network.name,
        "options": results.config.network.options,
        "recipe": described(results.config.recipe(name)),
        "eps": results.config.evaluation.parts["ensemble"].attack["eps"],
        "target": file.metadata["target"],
        "bits": file.metadata["bits"],
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "runtime": file.runtime,
        "training_images": len(data.x_train),
        "experiment": {
            "images": results.of(name, "attacks")[SEED]["n"],
            "attacked": results.of(name, "ensemble")[SEED]["n"],
            "minutes": round(results.seconds[name] / 60, 1),
        },
        "float": measured(results, SOURCE),
        "keras": measured(results, name),
        "file": {
            "all": {"images": len(data.x_test), "clean": round(float(np.mean(right)), 4)},
            "attacked": {
                "images": recipe.images,
                "square": recipe.square,
                **attacked(recipe, data, attack, x_adv, file),
            },
        },
    }


def card(title: str, facts: dict[str, Any]) -> str:
    """The Markdown card of a file; its last block is the same as JSON, for programs."""
    bits = sorted(set(facts["bits"].values()))
    options = ", ".join(f"{name}={value}" for name, value in facts["options"].items())
    whole, few, experiment = facts["file"]["all"], facts["file"]["attacked"], facts["experiment"]

    def percent(figures: dict[str, float], *names: str) -> str:
        return " | ".join(f"{100 * figures[name]:.1f}" for name in names)

    keras_columns = ("clean", "PGD", "AutoAttack")
    lines = [
        f"# {title}.tflite",
        "",
        f'`{facts["network"]}({options})` for {facts["data"]}, target "{facts["target"]}", weights of '
        f"{' and '.join(f'{b:g}' for b in bits)} bits, {facts['bytes']:,} bytes. Made by "
        '`examples/build_tflite_models.py` from the first seed of the preset "frontier".',
        "",
        f"- Recipe: {facts['recipe']}; {facts['training_images']:,} training images, {experiment['minutes']} minutes "
        "from AF on.",
        "- Input: images in [0, 1]; output: logits. Quantized to int8 unless the target has float activations.",
        f"- sha256: `{facts['sha256']}`",
        "",
        f"Attacks: L-inf, eps {facts['eps']}. The Keras models, clean on {experiment['images']:,} test images, "
        f"attacked on the first {experiment['attacked']:,} (%):",
        "",
        "| | clean | PGD-20, two losses | AutoAttack |",
        "|---|---:|---:|---:|",
        f"| AF, the float network that it comes from | {percent(facts['float'], *keras_columns)} |",
        f"| this network | {percent(facts['keras'], *keras_columns)} |",
        "",
        f"The file itself ({facts['runtime']}): {100 * whole['clean']:.1f} % of {whole['images']:,} test images. On "
        f"the first {few['images']} (%), given the images that AutoAttack made against the Keras model; and attacked "
        f"by Square ({few['square'][1]} queries), which sees nothing but its answers, on the first {few['square'][0]}:",
        "",
        "| clean | AutoAttack's images | clean, Square's images | Square |",
        "|---:|---:|---:|---:|",
        f"| {percent(few, 'clean', 'AutoAttack', _FEW, 'Square')} |",
        "",
        "```json",
        json.dumps(facts, indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)


def build(folder: Path, data_path: str | None, out: Path) -> None:
    """All files of one experiment, with their cards."""
    results = esq.experiment.read_results(folder)
    config = results.config
    data = load_data(config, data_path)
    recipe = FILES[config.data.name]
    attack = build_attack(config.evaluation.parts["ensemble"].attack, data.bounds, seed=SEED)
    models = {name: trained(folder / f"seed-{SEED}", name) for name, _ in recipe.files}
    few = data.x_test[: recipe.images], data.y_test[: recipe.images]
    x_adv = {name: attack(model, *few) for name, model in models.items()}
    for name, target in recipe.files:
        model = models[name]
        title = f"{config.data.name}_{name}_{target}"
        file = esq.convert(
            model,
            out / f"{title}.tflite",
            target=target,
            calibration=data.x_train[:200],
            bounds=data.bounds,
            labels=data.class_names,
            report=esq.RobustnessReport.from_json(folder / f"seed-{SEED}" / name / REPORT),
        )
        facts = facts_of(name, recipe, data, results, attack, x_adv[name], file)
        (out / f"{title}.md").write_text(card(title, facts), encoding="utf-8")
        print(title, facts["bytes"], facts["keras"], facts["file"]["attacked"])


def main() -> None:
    """Build what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help='of an experiment with the preset "frontier"')
    parser.add_argument("--data-path", metavar="PATH", help="where the data set's own files are")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the files (%(default)s)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    build(arguments.folder, arguments.data_path, arguments.out)


if __name__ == "__main__":
    main()
