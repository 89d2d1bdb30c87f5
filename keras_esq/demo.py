"""The whole way on real digits, in minutes: train, quantize, attack, convert, run. `keras-esq demo`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_esq import data
from keras_esq._checks import check_seed
from keras_esq._files import make_folder
from keras_esq._keras import keras
from keras_esq._text import aligned
from keras_esq.attacks import FGSM, PGD, AutoAttack
from keras_esq.conversion import convert
from keras_esq.evaluation import (
    AmplificationProfile,
    MaskingAudit,
    RobustnessReport,
    error_amplification,
    evaluate_robustness,
    masking_audit,
    plot_amplification,
)
from keras_esq.models import small_cnn
from keras_esq.quantize import quantize_model, summary
from keras_esq.runtime import Flatbuffer, available_runtimes
from keras_esq.training import ErrorSilencedModel, QuantizationRatio
from keras_esq.training.progress import EpochProgress

# The recipe. eps is in input units: white is 1, so one of the digits' 16 steps of grey is 0.0625.
EPS = 0.15
WIDTH = 32
BATCH = 64
TRAINING_ATTACK = PGD(eps=EPS, step_size=EPS / 4, steps=7)
TEST_ATTACKS = {
    "FGSM": FGSM(eps=EPS),
    "PGD": PGD(eps=EPS, step_size=EPS / 8, steps=40, restarts=5),
    "PGD margin": PGD(eps=EPS, step_size=EPS / 8, steps=40, restarts=5, loss="margin"),
}
# AutoAttack and the audit take long: half of the test images show whether PGD was strong enough.
ENSEMBLE = AutoAttack(eps=EPS)
AUDITED, FEW = ("AEB", "AET"), 200
JUDGED = ("AF", *AUDITED)
FILE_RUNTIMES = {"phone": ("litert", "tflite-runtime"), "mcu": ("tflm",)}


@dataclasses.dataclass(frozen=True)
class Step:
    """How one model of the demo is made.

    Attributes:
        name: the paper's acronym.
        what: in words.
        source: the model that it starts from, or None for new weights.
        weights: as `quantize_model` takes them, or None for float.
        objective: of ErrorSilencedModel; None for its default, which silences errors.
        epochs: of Adam with a cosine schedule of the learning rate.
    """

    name: str
    what: str
    source: str | None
    weights: Any
    objective: str | None
    epochs: int


# The first and the last layer, 2 % of the weights, lose the most by few bits.
ENDS = {"conv1": "int8", "logits": "int8"}
STEPS = (
    Step("NF", "float, natural training", None, None, "natural", 15),
    Step("AF", "float, adversarial training", None, None, "adversarial", 40),
    Step("AVB", "vanilla binary from AF", "AF", "binary", "natural", 40),
    Step("AEB", "error-silenced binary from AF", "AF", {**ENDS, "*": "binary"}, None, 60),
    Step("AET", "error-silenced ternary from AF", "AF", {**ENDS, "*": "ternary"}, None, 40),
)
LEARNING_RATE = 0.01
# The networks are small, so nearly all epochs go to the fully quantized one.
RATIO = {0: 0.5, 2: 0.75, 4: 0.875, 6: 1.0}


def run(out: Path, seed: int = 0) -> dict[str, Any]:
    """Run the demo, print its tables and write its files.

    Args:
        out: folder for the files; made if it does not exist.
        seed: of weights, data order, partitions and attacks.

    Returns:
        {"reports": {model: RobustnessReport}, "ensemble": {model: RobustnessReport of AutoAttack}, "audits": {model:
        MaskingAudit}, "profiles": {model: AmplificationProfile}, "files": [rows]}.

    Raises:
        OSError: if `out` can't be written to.
        ValueError: for a negative seed.
    """
    check_seed("seed", seed)
    make_folder(out, "the folder of the demo")
    digits = data.load("digits")
    print(
        f"Digits: {len(digits.x_train)} training, {len(digits.x_val)} validation and {len(digits.x_test)} test images "
        f"of 8x8 pixels. Attacks change every pixel by up to eps = {EPS} of the range from black to white."
    )
    models = _train(digits, seed)
    reports = _evaluate(models, digits, seed)
    ensemble = _ensemble(models, digits, seed)
    print(f"\nAccuracy on the {len(digits.x_test)} test images (%). PGD: worst of 10 runs of 40 steps on two losses.")
    print(f"AutoAttack: on the first {FEW} of them.\n")
    print(robustness_table(models, reports, ensemble))
    audits = _audit(models, digits, seed)
    print("\nDo the gradients of the error-silenced networks mislead the attacks?\n")
    print("\n".join(audit.summary() for audit in audits.values()))
    profiles = _amplification(models, reports, digits)
    picture = plot_amplification(profiles, out / "error_amplification.png")
    print("\nError amplification D_l = ||F_l(x) - F_l(x_adv)|| / ||F_l(x)||, x_adv by PGD, by layer\n")
    print(amplification_table(profiles))
    paths, rows = _files(models, reports, digits, out)
    print("\nint8 files, each run on the test images and on the images that fool its Keras model most (%)\n")
    print(aligned([_FILE_HEADER, *rows], left=3))
    report = out / "robustness.json"
    reports["AET"].to_json(report)
    print("\nFiles:")
    for path in [*paths, picture, report]:
        print(f"  {path}")
    return {"reports": reports, "ensemble": ensemble, "audits": audits, "profiles": profiles, "files": rows}


def _train(digits: data.Dataset, seed: int) -> dict[str, ErrorSilencedModel]:
    models: dict[str, ErrorSilencedModel] = {}
    with tqdm(total=sum(step.epochs for step in STEPS), unit="epoch") as bar:
        for step in STEPS:
            bar.set_description(f"train {step.name}")
            keras.utils.set_random_seed(seed)
            network = models[step.source] if step.source else small_cnn(width=WIDTH)
            models[step.name] = _train_one(step, network, digits, EpochProgress(bar, ("loss", "accuracy")))
    return models


def _train_one(step: Step, network: Any, digits: data.Dataset, progress: Any) -> ErrorSilencedModel:
    if step.weights:
        network = quantize_model(network, step.weights)
    attack = None if step.objective == "natural" else TRAINING_ATTACK
    model = ErrorSilencedModel(network, attack=attack, objective=step.objective, name=step.name)
    batches = -(-len(digits.x_train) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, step.epochs * batches)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [progress, *([QuantizationRatio(RATIO)] if step.weights else [])]
    model.fit(digits.x_train, digits.y_train, batch_size=BATCH, epochs=step.epochs, verbose=0, callbacks=callbacks)
    return model


def _of_each(names: Iterable[str], job: Callable[[str], Any], what: str) -> dict[str, Any]:
    """{name: job(name)}, two at a time: an attack on a network as small as these keeps one core busy."""
    names = list(names)
    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(names, tqdm(pool.map(job, names), what, len(names), unit="model"), strict=True))


def _evaluate(models: dict[str, Any], digits: data.Dataset, seed: int) -> dict[str, RobustnessReport]:
    x, y = digits.x_test, digits.y_test
    options: dict[str, Any] = {
        "attacks": TEST_ATTACKS,
        "batch_size": 400,
        "seed": seed,
        "progress": False,
        "keep_examples": True,
    }
    return _of_each(models, lambda name: evaluate_robustness(models[name], x, y, **options), "attack")


def _ensemble(models: dict[str, Any], digits: data.Dataset, seed: int) -> dict[str, RobustnessReport]:
    """AutoAttack's reports."""
    x, y = digits.x_test[:FEW], digits.y_test[:FEW]
    options: dict[str, Any] = {"attacks": {"AutoAttack": ENSEMBLE}, "batch_size": FEW, "seed": seed, "progress": False}
    return _of_each(JUDGED, lambda name: evaluate_robustness(models[name], x, y, **options), "AutoAttack")


def _audit(models: dict[str, Any], digits: data.Dataset, seed: int) -> dict[str, MaskingAudit]:
    x, y = digits.x_test[:FEW], digits.y_test[:FEW]
    return _of_each(AUDITED, lambda name: masking_audit(models[name], x, y, EPS, batch_size=FEW, seed=seed), "audit")


def robustness_table(
    models: dict[str, Any], reports: dict[str, RobustnessReport], ensemble: dict[str, RobustnessReport]
) -> str:
    """One row a model: accuracies, bits a weight, bytes of weights."""
    header = ["model", "", "clean", "FGSM", "PGD", "AutoAttack", "bits/weight", "weight bytes"]
    words = {step.name: step.what for step in STEPS}
    rows = []
    for name, report in reports.items():
        total = summary(models[name])
        kernels = sum(row.low_bit_bytes - 4 * row.other_weights for row in total.rows)
        accuracies = [report.accuracy("clean"), report.accuracy("FGSM"), report.accuracy("worst case")]
        figures = [f"{100 * accuracy:.1f}" for accuracy in accuracies]
        figures.append(f"{100 * ensemble[name].accuracy('AutoAttack'):.1f}" if name in ensemble else "-")
        rows.append([name, words[name], *figures, f"{total.bits_per_weight:.3g}", f"{kernels:,}"])
    return aligned([header, *rows], left=2)


def _strongest(report: RobustnessReport, digits: data.Dataset) -> np.ndarray:
    """For each test image the adversarial one of an attack that fooled the model, else that of PGD."""
    x_adv = report.x_adv["PGD"].copy()
    missed = report.robust["PGD"] & ~report.robust["PGD margin"]
    x_adv[missed] = report.x_adv["PGD margin"][missed]
    return x_adv


def _amplification(
    models: dict[str, Any], reports: dict[str, RobustnessReport], digits: data.Dataset
) -> dict[str, AmplificationProfile]:
    return {
        name: error_amplification(models[name], digits.x_test, reports[name].x_adv["PGD"])
        for name in ("AF", "AVB", "AEB", "AET")
    }


def amplification_table(profiles: dict[str, AmplificationProfile]) -> str:
    """One row a layer, one column a model."""
    layers = list(next(iter(profiles.values())))
    rows = [[layer, *(f"{profile[layer]:.3f}" for profile in profiles.values())] for layer in layers]
    return aligned([["layer", *profiles], *rows])


_FILE_HEADER = ["model", "target", "runtime", "bytes", "agrees", "clean", "PGD", "PGD, Keras"]


def _files(
    models: dict[str, Any], reports: dict[str, RobustnessReport], digits: data.Dataset, out: Path
) -> tuple[list[Path], list[list[str]]]:
    paths, rows = [], []
    jobs = [(name, target) for name in ("AET", "AEB") for target in FILE_RUNTIMES]
    for name, target in tqdm(jobs, desc="convert", unit="file"):
        path = out / f"{name.lower()}_{target}.tflite"
        convert(models[name], path, target=target, calibration=digits.x_train[:200], weights="int8")
        paths.append(path)
        rows += [_file_row(models[name], reports[name], digits, path, name, target, r) for r in FILE_RUNTIMES[target]]
    return paths, rows


def _file_row(
    model: Any, report: RobustnessReport, digits: data.Dataset, path: Path, name: str, target: str, runtime: str
) -> list[str]:
    if runtime not in available_runtimes():
        return [name, target, runtime, f"{path.stat().st_size:,}", *["not installed"] + ["-"] * 3]
    file = Flatbuffer(path, runtime=runtime)
    x_adv = _strongest(report, digits)
    classes = file.predict(digits.x_test).argmax(axis=1)
    agrees = np.mean(classes == model.predict(digits.x_test, verbose=0).argmax(axis=1))
    clean = np.mean(classes == digits.y_test)
    attacked = np.mean((classes == digits.y_test) & (file.predict(x_adv).argmax(axis=1) == digits.y_test))
    figures = [f"{100 * value:.1f}" for value in (agrees, clean, attacked, report.accuracy("worst case"))]
    return [name, target, runtime, f"{file.num_bytes:,}", *figures]
