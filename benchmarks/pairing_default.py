"""How the default of `LogitPairing` was found: distance and weight against accuracy under attack.

    python benchmarks/pairing_default.py digits
    python benchmarks/pairing_default.py mnist --data mnist.npz      # x_train, y_train, x_test, y_test as uint8

Trains a float adversarial network (AF), then low-bit networks from it: vanilla, adversarial cross-entropy, and pairing
with each distance and weight. "worst" is the share of test images that are right under every run of PGD-40 with 3
restarts on the cross-entropy and on the margin of the logits. Appends one JSON line a network to `--log`, skips those
that are there, and writes the table into benchmarks/pairing_default.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.quantize import low_bit_weights

PAGE = Path(__file__).with_suffix(".md")
SETTINGS = {
    # images, eps, width, batch, epochs of AF, of low-bit networks, learning rate of low-bit networks
    "digits": {"eps": 0.15, "width": 32, "batch": 64, "af_epochs": 40, "epochs": 80, "rate": 0.003},
    "mnist": {"eps": 0.1, "width": 16, "batch": 64, "af_epochs": 12, "epochs": 12, "rate": 0.003},
}
PAIRINGS = [("squared_l2", w) for w in (0.02, 0.05, 0.1, 0.2, 0.3)]


def load(name: str, path: str | None) -> tuple[np.ndarray, ...]:
    """(x_train, y_train, x_test, y_test); of MNIST the first 6,000 and 1,000."""
    if name == "digits":
        digits = esq.data.load("digits")
        return digits.x_train, digits.y_train, digits.x_test, digits.y_test
    with np.load(path) as file:
        images = [(file[key][:n, ..., None] / 255).astype(np.float32) for key, n in _PARTS]
        labels = [file[key.replace("x", "y")][:n].astype(np.int32) for key, n in _PARTS]
    return images[0], labels[0], images[1], labels[1]


_PARTS = (("x_train", 6000), ("x_test", 1000))


def train(network, data, settings, epochs, rate, seed, **kwargs):
    """Train with Adam and a cosine schedule; low-bit networks with every filter quantized from the start."""
    keras.utils.set_random_seed(seed)
    model = esq.ErrorSilencedModel(network, **kwargs)
    steps = epochs * -(-len(data[0]) // settings["batch"])
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [esq.QuantizationRatio("full")] if low_bit_weights(network) else []
    model.fit(data[0], data[1], batch_size=settings["batch"], epochs=epochs, verbose=0, callbacks=callbacks)
    return model


def evaluate(model, data, eps):
    """Clean and worst-case accuracy, and the worst on each of the two losses."""
    attacks = {
        loss: esq.attacks.PGD(eps=eps, step_size=eps / 8, steps=40, restarts=3, loss=loss) for loss in ("ce", "margin")
    }
    report = esq.evaluate_robustness(model, data[2], data[3], attacks=attacks, batch_size=200, progress=False)
    return {name: report.accuracy(name) for name in ("clean", "ce", "margin", "worst case")}


def jobs(settings):
    """(key, quantizer, arguments of ErrorSilencedModel) of each low-bit network."""
    eps = settings["eps"]
    attack = esq.attacks.PGD(eps=eps, step_size=eps / 4, steps=7)
    for weights in ("binary", "ternary"):
        yield f"{weights}, vanilla", weights, {"objective": "natural"}
        yield f"{weights}, adversarial", weights, {"objective": "adversarial", "attack": attack}
        for distance, weight in PAIRINGS:
            pairing = esq.LogitPairing(weight, distance)
            yield f"{weights}, pairing {weight} {distance}", weights, {"attack": attack, "pairing": pairing}


def main() -> None:
    """Run what is missing in the log, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=SETTINGS)
    parser.add_argument("--data", help="the .npz of MNIST")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("pairing_default.jsonl"))
    parser.add_argument("--only", default="", help="run just the networks whose name has this text")
    arguments = parser.parse_args()
    settings, data = SETTINGS[arguments.dataset], load(arguments.dataset, arguments.data)
    done = {}
    if arguments.log.exists():
        lines = [json.loads(line) for line in arguments.log.read_text().splitlines()]
        done = {(line["dataset"], line["model"]): line for line in lines}

    def record(name, model, seconds):
        line = {"dataset": arguments.dataset, "model": name, "seed": arguments.seed, "seconds": round(seconds)}
        line |= {key: round(value, 4) for key, value in evaluate(model, data, settings["eps"]).items()}
        done[arguments.dataset, name] = line
        with arguments.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)

    keras.utils.set_random_seed(arguments.seed)
    network = esq.models.small_cnn(data[0].shape[1:], width=settings["width"])
    weights_file = arguments.log.with_suffix(f".{arguments.dataset}.af.npz")
    if weights_file.exists():
        with np.load(weights_file) as file:
            network.set_weights([file[key] for key in file.files])
    else:
        eps = settings["eps"]
        attack = esq.attacks.PGD(eps=eps, step_size=eps / 4, steps=7)
        start = time.time()
        rest = {"objective": "adversarial", "attack": attack}
        model = train(network, data, settings, settings["af_epochs"], 0.003, arguments.seed, **rest)
        record("AF, float", model, time.time() - start)
        np.savez(weights_file, *network.get_weights())
    for name, weights, kwargs in jobs(settings):
        if (arguments.dataset, name) in done or arguments.only not in name:
            continue
        start = time.time()
        low_bit = esq.quantize_model(network, weights)
        model = train(low_bit, data, settings, settings["epochs"], settings["rate"], arguments.seed, **kwargs)
        record(name, model, time.time() - start)
    write_page(done)


def write_page(done) -> None:
    """The table of all that is in the log."""
    lines = ["# The default of LogitPairing", "", *(__doc__ or "").strip().splitlines()[2:4], ""]
    lines += [
        "Written by `python benchmarks/pairing_default.py digits` and `... mnist --data mnist.npz`. Accuracy in %,"
    ]
    lines += ["one seed; the 95 % interval of a figure is about +-4 points (digits) and +-3 (MNIST)."]
    lines += ["The default was chosen on these test images."]
    for dataset in SETTINGS:
        rows = [line for (name, _), line in done.items() if name == dataset]
        if rows:
            lines += ["", f"## {dataset}: {SETTINGS[dataset]}", ""]
            lines += ["| network | clean | PGD, cross-entropy | PGD, margin | worst |", "|---|---:|---:|---:|---:|"]
            for row in rows:
                figures = (f"{100 * row[key]:.1f}" for key in ("clean", "ce", "margin", "worst case"))
                lines.append(f"| {row['model']} | {' | '.join(figures)} |")
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
