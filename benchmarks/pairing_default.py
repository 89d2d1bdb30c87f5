"""How the default was found: distance and weight of `LogitPairing`, on validation images.

    python benchmarks/pairing_default.py digits
    python benchmarks/pairing_default.py mnist --data mnist.npz      # x_train, y_train as uint8

Trains float adversarial networks (AF), then low-bit networks from them: adversarial cross-entropy, pairing with
several distances and weights, and on the digits with one thing changed. "worst" is the share of validation images that
are right under every run of PGD-40 with 3 restarts on the cross-entropy and on the margin of the logits. Test images
are not touched. Appends one JSON line a network to `--log`, skips those that are there, and writes the table into
benchmarks/pairing_default.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import numpy as np

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.demo import RATIO
from keras_esq.quantize import low_bit_weights

PAGE = Path(__file__).with_suffix(".md")
SETTINGS = {
    "digits": {"eps": 0.15, "width": 32, "batch": 64, "af_epochs": 40, "epochs": 80, "rate": 0.003, "ratio": RATIO},
    "mnist": {"eps": 0.1, "width": 16, "batch": 64, "af_epochs": 12, "epochs": 12, "rate": 0.003, "ratio": "full"},
}
PAIRINGS = [("squared_l2", 0.1), ("squared_l2", 0.3), ("squared_l2", 1.0), ("l2", 0.5), ("l2", 1.0)]
# One thing changed, on the digits.
CHANGES = {"SGD 0.05": {"rate": 0.05}, "ratio uniform": {"ratio": "uniform"}, "width 16": {"width": 16}}
TRAINING_IMAGES, VALIDATION_IMAGES = 6000, 1000  # of MNIST's training images


def load(name: str, path: str | None) -> tuple[np.ndarray, ...]:
    """(x_train, y_train, x_val, y_val)."""
    if name == "digits":
        digits = esq.data.load("digits")
        return digits.x_train, digits.y_train, digits.x_val, digits.y_val
    with np.load(path) as file:
        x = (file["x_train"][: TRAINING_IMAGES + VALIDATION_IMAGES, ..., None] / 255).astype(np.float32)
        y = file["y_train"][: len(x)].astype(np.int32)
    return x[:TRAINING_IMAGES], y[:TRAINING_IMAGES], x[TRAINING_IMAGES:], y[TRAINING_IMAGES:]


def train(network, data, settings, epochs, seed, **kwargs):
    """Train with a cosine schedule: Adam, or SGD with momentum for learning rates from 0.01."""
    keras.utils.set_random_seed(seed)
    model = esq.ErrorSilencedModel(network, **kwargs)
    steps = epochs * -(-len(data[0]) // settings["batch"])
    rate = keras.optimizers.schedules.CosineDecay(settings["rate"], steps)
    sgd = settings["rate"] >= 0.01
    optimizer = keras.optimizers.SGD(rate, momentum=0.9) if sgd else keras.optimizers.Adam(rate)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [esq.QuantizationRatio(settings["ratio"])] if low_bit_weights(network) else []
    model.fit(data[0], data[1], batch_size=settings["batch"], epochs=epochs, verbose=0, callbacks=callbacks)
    return model


def evaluate(model, data, eps):
    """Clean and worst-case accuracy, and the worst on each of the two losses."""
    attacks = {
        loss: esq.attacks.PGD(eps=eps, step_size=eps / 8, steps=40, restarts=3, loss=loss) for loss in ("ce", "margin")
    }
    report = esq.evaluate_robustness(model, data[2], data[3], attacks=attacks, batch_size=200, progress=False)
    return {name: report.accuracy(name) for name in ("clean", "ce", "margin", "worst case")}


def jobs(dataset):
    """(name, quantizer, changed settings, arguments of ErrorSilencedModel) of each low-bit network."""
    for weights in ("binary", "ternary"):
        yield f"{weights}, adversarial", weights, {}, {"objective": "adversarial"}
        for distance, weight in PAIRINGS:
            yield (
                f"{weights}, pairing {weight} {distance}",
                weights,
                {},
                {"pairing": esq.LogitPairing(weight, distance)},
            )
    for name, change in CHANGES.items() if dataset == "digits" else ():
        yield f"binary, pairing 0.3 squared_l2, {name}", "binary", change, {"pairing": esq.LogitPairing(0.3)}


def read(log):
    """The log's lines by (dataset, network, seed)."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {(line["dataset"], line["model"], line["seed"]): line for line in lines}


def main() -> None:
    """Run what is missing in the log, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=SETTINGS)
    parser.add_argument("--data", help="the .npz of MNIST")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--log", type=Path, default=Path("pairing_default.jsonl"))
    parser.add_argument("--only", default="", help="run just the networks whose name has this text")
    arguments = parser.parse_args()
    dataset, log = arguments.dataset, arguments.log
    data, base = load(dataset, arguments.data), SETTINGS[dataset]
    attack = esq.attacks.PGD(eps=base["eps"], step_size=base["eps"] / 4, steps=7)

    def run(name, seed, network, settings, epochs, **kwargs):
        start = time.time()
        model = train(network, data, settings, epochs, seed, attack=attack, **kwargs)
        line = {"dataset": dataset, "model": name, "seed": seed, "seconds": round(time.time() - start)}
        line |= {key: round(value, 4) for key, value in evaluate(model, data, base["eps"]).items()}
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)

    for seed, (name, weights, change, kwargs) in itertools.product(range(arguments.seeds), jobs(dataset)):
        if (dataset, name, seed) in read(log) or arguments.only not in name:
            continue
        settings = {**base, **change}
        keras.utils.set_random_seed(seed)
        network = esq.models.small_cnn(data[0].shape[1:], width=settings["width"])
        saved = log.with_suffix(f".{dataset}.{settings['width']}.{seed}.npz")
        if saved.exists():
            with np.load(saved) as file:
                network.set_weights([file[key] for key in file.files])
        else:
            af = "AF, float" + (f", width {change['width']}" if "width" in change else "")
            run(af, seed, network, {**settings, "rate": base["rate"]}, base["af_epochs"], objective="adversarial")
            np.savez(saved, *network.get_weights())
        run(name, seed, esq.quantize_model(network, weights), settings, base["epochs"], **kwargs)
    write_page(read(log))


def write_page(done) -> None:
    """The table of all that is in the log."""
    lines = ["# The default of LogitPairing", "", *(__doc__ or "").strip().splitlines()[2:4], ""]
    lines += [
        "Accuracy in % on validation images that no network was trained on (200 digits, 1,000 of MNIST's training"
    ]
    lines += ["images): mean over seeds, and from the lowest to the highest of the worst case."]
    for dataset in SETTINGS:
        models = list(dict.fromkeys(name for where, name, _ in done if where == dataset))
        if models:
            lines += ["", f"## {dataset}: {SETTINGS[dataset]}", ""]
            lines += ["| network | seeds | clean | PGD, cross-entropy | PGD, margin | worst | low - high |"]
            lines += ["|---|---:|---:|---:|---:|---:|---|"]
        for model in models:
            rows = [line for (where, name, _), line in done.items() if (where, name) == (dataset, model)]
            columns = {key: [100 * row[key] for row in rows] for key in ("clean", "ce", "margin", "worst case")}
            figures = (f"{statistics.mean(column):.1f}" for column in columns.values())
            worst = columns["worst case"]
            lines.append(f"| {model} | {len(rows)} | {' | '.join(figures)} | {min(worst):.1f} - {max(worst):.1f} |")
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
