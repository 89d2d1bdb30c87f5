"""Sparsity times bits: what magnitude pruning before quantizing costs in robust accuracy, on the digits.

    python benchmarks/pruning.py
    python benchmarks/pruning.py --epochs 2 --sparsity 0 0.5      # a quick look

A float network is trained on adversarial images while tfmot prunes it (Zhu & Gupta 2017, arXiv 1710.01878), then
quantized with its zeros kept and trained with logit pairing. "worst" is the share of validation images that are right
under PGD-40 with 3 restarts on the cross-entropy and on the margin of the logits; "file" is the size of the
microcontroller's file. Test images are not touched. Writes the table to benchmarks/pruning.md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import keras_esq as esq
from keras_esq._keras import keras, tfmot_sparsity

EPS, WIDTH, BATCH, RATE = 0.15, 32, 64, 0.003
EVERY = 10  # training steps between two masks
ATTACK = esq.attacks.PGD(eps=EPS, step_size=EPS / 4, steps=7)
# 1 bit and a mask, which needs a zero beside -alpha and +alpha, is stored in 2 bits.
WEIGHTS = {
    "ternary": esq.Ternary(keep_zeros=True),
    "binary and mask": esq.Ternary(threshold=0, keep_zeros=True),
}


def fit(network, data, epochs, callbacks, **settings):
    """Train with Adam and a cosine schedule."""
    model = esq.ErrorSilencedModel(network, attack=ATTACK, **settings)
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * -(-len(data.x_train) // BATCH))
    model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data.x_train, data.y_train, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=callbacks)


def pruned_float(data, sparsity, epochs):
    """A float network in which that share of each kernel is zero from the middle of its training on."""
    network = esq.models.small_cnn(data.input_shape, data.classes, width=WIDTH)
    if not sparsity:
        fit(network, data, epochs, [], objective="adversarial")
        return network
    # Rounded to whole periods: tfmot renews its masks in no step after the last.
    half = EVERY * max(1, epochs * -(-len(data.x_train) // BATCH) // (2 * EVERY))
    schedule = tfmot_sparsity.PolynomialDecay(0.0, sparsity, begin_step=0, end_step=half, frequency=EVERY)
    wrapped = tfmot_sparsity.prune_low_magnitude(network, schedule)
    fit(wrapped, data, epochs, [tfmot_sparsity.UpdatePruningStep()], objective="adversarial")
    return tfmot_sparsity.strip_pruning(wrapped)


def row(name, sparsity, network, data, folder):
    """One line of the table."""
    attacks = {
        loss: esq.attacks.PGD(eps=EPS, step_size=EPS / 8, steps=40, restarts=3, loss=loss) for loss in ("ce", "margin")
    }
    report = esq.evaluate_robustness(network, data.x_val, data.y_val, attacks=attacks, batch_size=200, progress=False)
    file = esq.convert(network, Path(folder) / "model.tflite", target="mcu", calibration=data.x_train[:200])
    figures = [f"{100 * report.accuracy(one):.1f}" for one in ("clean", "ce", "margin", "worst case")]
    zeros = f"{100 * esq.summary(network).totals.zeros:.1f}"
    cells = [f"{100 * sparsity:.0f} %", name, zeros, *figures, f"{Path(file.path).stat().st_size:,}"]
    print("  ".join(cells), flush=True)
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train all combinations and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.0, 0.5, 0.75, 0.9])
    parser.add_argument("--epochs", type=int, default=40, help="of either training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, default=Path(__file__).with_suffix(".md"))
    arguments = parser.parse_args()
    data = esq.data.load("digits")
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for sparsity in arguments.sparsity:
            keras.utils.set_random_seed(arguments.seed)
            network = pruned_float(data, sparsity, arguments.epochs)
            lines.append(row("float", sparsity, network, data, folder))
            for name, quantizer in WEIGHTS.items():
                keras.utils.set_random_seed(arguments.seed)
                low_bit = esq.quantize_model(network, quantizer)
                fit(low_bit, data, arguments.epochs, [esq.QuantizationRatio("exponential")])
                lines.append(row(name, sparsity, low_bit, data, folder))
    head = ["pruned", "weights", "zeros (%)", "clean (%)", "PGD, cross-entropy", "PGD, margin", "worst", "file (bytes)"]
    text = ["# Sparsity, bits and robust accuracy", "", *(__doc__ or "").strip().splitlines()[5:], ""]
    text += [f"{arguments.epochs} epochs, seed {arguments.seed}, {len(np.unique(data.y_val))} classes, "]
    text[-1] += f"{len(data.x_val)} validation images."
    text += ["", f"| {' | '.join(head)} |", "|---:|---|" + "---:|" * (len(head) - 2), *lines]
    arguments.page.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
