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
        images: the first so many test images attack the file: AutoAttack's against its Keras model, and Square's
            against the file itself, which takes long in a microcontroller's interpreter.
        queries: of Square.
    """

    files: tuple[tuple[str, str], ...]
    images: int = 300
    queries: int = 1000


FILES = {
    "digits": Files((("binary", "mcu"), ("ternary", "mcu"), ("ternary", "phone"), ("ternary", "phone-small"))),
    "mnist": Files((("binary", "mcu"), ("ternary", "mcu"))),
    "cifar10": Files((("binary", "mcu"), ("ternary", "mcu"), ("ternary", "phone-small"), ("ternary", "ethos-u"))),
}
SOURCE, SEED = "AF", 0
FOLDER = Path(__file__).resolve().parents[1] / "tflite_models"


def measured(results: Any, name: str) -> dict[str, float]:
    """Accuracies of a network of the experiment, of the seed that is published."""
    white, ensemble = results.of(name, "attacks")[SEED], results.of(name, "ensemble")[SEED]
    counts = {
        "clean": (white["correct"]["clean"], white["n"]),
        "PGD": (white["correct"]["worst L-inf"], white["n"]),
        "AutoAttack": (ensemble["correct"]["AutoAttack"], ensemble["n"]),
    }
    return {key: round(right / n, 4) for key, (right, n) in counts.items()}


def attacked(recipe: Files, data: Any, attack: Any, model: Any, file: Any) -> dict[str, float]:
    """Accuracies of the file on the images that attack it."""
    few, square = slice(0, recipe.images), esq.attacks.Square(eps=attack.eps, query_budget=recipe.queries)
    settings: dict[str, Any] = {"seed": SEED, "batch_size": 100}
    x, y = data.x_test[few], data.y_test[few]
    against_keras = esq.attacks.Transfer(source_model=model, attack=attack)
    report = esq.evaluate_robustness(file, x, y, attacks={"AutoAttack": against_keras, "Square": square}, **settings)
    return {name: round(report.accuracy(name), 4) for name in ("clean", "AutoAttack", "Square", "worst case")}


def facts_of(name: str, recipe: Files, data: Any, results: Any, model: Any, file: Any) -> dict[str, Any]:
    """The facts of a file's card."""
    table = results.config.evaluation.parts["ensemble"].attack
    attack = build_attack(table, data.bounds)
    content = Path(file.path).read_bytes()
    right = file.predict(data.x_test).argmax(axis=1) == data.y_test
    return {
        "data": results.config.data.name,
        "network": results.config.network.name,
        "options": results.config.network.options,
        "recipe": results.config.recipe(name).what,
        "eps": table["eps"],
        "target": file.metadata["target"],
        "bits": file.metadata["bits"],
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "runtime": file.runtime,
        "training_images": len(data.x_train),
        "experiment": {
            "images": results.of(name, "attacks")[SEED]["n"],
            "minutes": round(results.seconds[name] / 60, 1),
        },
        "float": measured(results, SOURCE),
        "keras": measured(results, name),
        "file": {
            "all": {"images": len(data.x_test), "clean": round(float(np.mean(right)), 4)},
            "attacked": {
                "images": recipe.images,
                "queries": recipe.queries,
                **attacked(recipe, data, attack, model, file),
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
        f"Attacks: L-inf, eps {facts['eps']}. The Keras models, on the first {experiment['images']:,} test images (%):",
        "",
        "| | clean | PGD-20, two losses | AutoAttack |",
        "|---|---:|---:|---:|",
        f"| AF, the float network that it comes from | {percent(facts['float'], *keras_columns)} |",
        f"| this network | {percent(facts['keras'], *keras_columns)} |",
        "",
        f"The file itself ({facts['runtime']}): {100 * whole['clean']:.1f} % of {whole['images']:,} test images. On "
        f"the first {few['images']} (%), given the images that AutoAttack made against the Keras model, and attacked "
        f"by Square ({few['queries']} queries), which sees nothing but its answers:",
        "",
        "| clean | AutoAttack's images | Square | worst of both |",
        "|---:|---:|---:|---:|",
        f"| {percent(few, 'clean', 'AutoAttack', 'Square', 'worst case')} |",
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
    for name, target in recipe.files:
        model = trained(folder / f"seed-{SEED}", name)
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
        facts = facts_of(name, recipe, data, results, model, file)
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
