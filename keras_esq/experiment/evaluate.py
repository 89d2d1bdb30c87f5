"""Evaluating the models of an experiment, part by part; a killed evaluation goes on."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_esq._files import write_atomic
from keras_esq.attacks.norms import distances
from keras_esq.data import Dataset
from keras_esq.evaluation import (
    RobustnessReport,
    error_amplification,
    evaluate_robustness,
    masking_audit,
    transfer_matrix,
)
from keras_esq.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from keras_esq.evaluation.layer_sensitivity import kernel_bytes, kernel_layers
from keras_esq.evaluation.sets import CORRUPTION_SET, WORST_CASE
from keras_esq.experiment.attacks_in import (
    black_box_attacks,
    build_attack,
    growing_attacks,
    radii_of,
    white_box_attacks,
)
from keras_esq.experiment.config import Config
from keras_esq.experiment.evaluation_config import Part
from keras_esq.experiment.log import Log
from keras_esq.experiment.train import trained
from keras_esq.quantize import summary

# The worst of the white-box attacks, sample by sample, by their norm; DDN and Carlini-Wagner know only L2.
WORST = {"linf": "worst L-inf", "l2": "worst L2"}
RESULTS, REPORT, CACHE = "evaluation.json", "report.json", "cache"


class Evaluator:
    """Evaluates the models of one seed; what is finished, with the same settings, is not done again.

    Args:
        config: the experiment.
        data: its data.
        folder: of the seed, with its models.
        seed: of the attacks.
        twin: folder of another seed, whose models stand in for these in transfer attacks on themselves; or None.
        log: for the seconds of each part.
    """

    def __init__(self, config: Config, data: Dataset, folder: Path, seed: int, twin: Path | None, log: Log) -> None:
        self.config, self.data, self.seed, self.log = config, data, seed, log
        self._folder, self._twin = folder, twin
        self._model = functools.cache(lambda name: trained(self._folder, name))

    def run(self) -> None:
        """Evaluate all."""
        steps = list(self._steps())
        with tqdm(steps, unit="step") as bar:
            for name, kind, settings, function in bar:
                bar.set_description(f"seed {self.seed} {name} {kind}")
                self._do(name, kind, settings, function)
        # Not before all is done: a part that is done must not take with it the batches of one that was broken off.
        for recipe in self.config.of_seed(self.seed):
            shutil.rmtree(self._folder / recipe.name / CACHE, ignore_errors=True)

    def _steps(self) -> Iterator[tuple[str, str, dict[str, Any], Callable[[str], dict[str, Any]]]]:
        """(model, part, its settings, what does it), in their order."""
        for recipe in self.config.of_seed(self.seed):
            yield recipe.name, "size", {}, self._size
            yield recipe.name, "attacks", self._settings(self.config.evaluation.attacks), self._white_box
        for kind, function in (
            ("strengths", self._strengths),
            ("curve", self._strengths),
            ("amplification", self._amplification),
            ("transfer", self._transfer),
            ("ensemble", self._ensemble),
            ("blackbox", self._blackbox),
            ("audit", self._audit),
            ("corruptions", self._corruptions),
        ):
            part = self.config.evaluation.parts.get(kind)
            if part is None:
                continue
            for name in self._names(part):
                settings = self._settings({"attack": part.attack, "eps": part.eps}, part)
                if kind in ("ensemble", "blackbox"):
                    settings |= {"white box": self._settings(self.config.evaluation.attacks)}
                if kind == "blackbox":
                    settings |= {"boundary": part.boundary, "nattack": part.nattack}
                if kind == "transfer":
                    twin = self._twin_of(name)
                    settings |= {"models": self._names(part), "twin": twin.name if twin else None}
                yield name, kind, settings, functools.partial(function, part=part)

    def _names(self, part: Part) -> list[str]:
        names = [recipe.name for recipe in self.config.of_seed(self.seed)]
        return [name for name in part.models or names if name in names]

    def _settings(self, attacks: Mapping[str, Any], part: Part | None = None) -> dict[str, Any]:
        return {
            "on": self.config.evaluation.on,
            "images": len(self._images(part)[0]),
            "batch_size": self.config.evaluation.batch_size,
            "attacks": json.loads(json.dumps(attacks)),
        }

    def _images(self, part: Part | None) -> tuple[np.ndarray, np.ndarray]:
        counts = [one for one in (self.config.evaluation.images, part.images if part else 0) if one]
        test = self.config.evaluation.on == "test"
        x, y = (self.data.x_test, self.data.y_test) if test else (self.data.x_val, self.data.y_val)
        count = min(counts, default=len(x))
        return x[:count], y[:count]

    def _do(self, name: str, kind: str, settings: dict[str, Any], function: Callable[[str], dict[str, Any]]) -> None:
        """Do a part of a model's evaluation unless it is done."""
        path = self._folder / name / RESULTS

        def done() -> dict[str, Any]:
            return json.loads(path.read_text()) if path.exists() else {}

        if done().get(kind, {}).get("settings") == settings:
            return
        with self.log.step(f"evaluate seed {self.seed} {name} {kind}"):
            result = function(name)
        # Read anew: another process may have done another part meanwhile.
        content = {**done(), kind: {"settings": settings, "result": result}}
        write_atomic(path, json.dumps(content, indent=1) + "\n")

    def _report(self, name: str, attacks: Any, part: Part | None = None, keep: bool = False) -> RobustnessReport:
        x, y = self._images(part)
        return evaluate_robustness(
            self._model(name),
            x,
            y,
            attacks=attacks,
            batch_size=self.config.evaluation.batch_size,
            seed=self.seed,
            cache=self._folder / name / CACHE,
            keep_examples=keep,
        )

    def _attack(self, table: Mapping[str, Any], **changes: Any) -> Any:
        return build_attack(table, self.data.bounds, **changes)

    def _size(self, name: str) -> dict[str, Any]:
        model = self._model(name)
        rows = summary(model)
        total, bits = rows.totals, rows.bits_per_weight
        kernels = sum(row.low_bit_bytes - 4 * row.other_weights for row in rows.rows)
        if self.config.recipe(name).weights == "int8":  # rounded values in a float network
            bits = 8.0
            kernels = sum(kernel_bytes(layer, 8) for layer in kernel_layers(model.network))
        return {
            "bits": bits,
            "weights": total.weights,
            "zeros": total.zeros,
            "kernel_bytes": kernels,
            "bytes": kernels + 4 * total.other_weights,
            "float_bytes": total.float_bytes,
        }

    def _white_box(self, name: str) -> dict[str, Any]:
        attacks = white_box_attacks(self.config.evaluation, self.data.bounds)
        report = self._report(name, attacks)
        report.to_json(self._folder / name / REPORT)
        counts = _counts(report)
        del counts["correct"][WORST_CASE]  # of balls of different norms: nothing that could be compared
        worst: dict[str, np.ndarray] = {}
        for norm, label in WORST.items():
            masks = [report.robust[one] for one, attack in attacks.items() if _norm(attack) == norm]
            if masks:
                worst[label] = np.logical_and.reduce(masks)
                counts["correct"][label] = int(worst[label].sum())
        return {**counts, "robust": _as_text(worst)}

    def _strengths(self, name: str, part: Part) -> dict[str, Any]:
        attacks = growing_attacks(part, self.data.bounds)
        return {**_counts(self._report(name, attacks, part)), "eps": list(radii_of(part).values())}

    def _amplification(self, name: str, part: Part) -> dict[str, Any]:
        x, y = self._images(part)
        model, batch = self._model(name), self.config.evaluation.batch_size
        x_adv = np.asarray(self._attack(part.attack, seed=self.seed)(model, x, y, batch_size=batch))
        profile = error_amplification(model, x, x_adv, batch_size=batch)
        return {"mean": profile.mean, "std": profile.std, "undefined": profile.undefined, "n": profile.n}

    def _transfer(self, name: str, part: Part) -> dict[str, Any]:
        x, y = self._images(part)
        twin = self._twin_of(name)
        twins = {name: trained(twin, name)} if twin else {}
        matrix = transfer_matrix(
            {other: self._model(other) for other in self._names(part)},
            x,
            y,
            self._attack(part.attack),
            twins,
            only=[name],
            batch_size=self.config.evaluation.batch_size,
            seed=self.seed,
        )
        content = json.loads(matrix.to_json())
        return {
            "n": matrix.n,
            "accuracy": dict(zip(matrix.targets, content["accuracy"][0], strict=True)),
            "clean": dict(zip(matrix.targets, content["clean"], strict=True)),
        }

    def _twin_of(self, name: str) -> Path | None:
        """The folder of another seed, if it has that model."""
        return self._twin if self._twin and (self._twin / name).is_dir() else None

    def _ensemble(self, name: str, part: Part) -> dict[str, Any]:
        label = str(part.attack["attack"])
        report = self._report(name, {label: self._attack(part.attack)}, part)
        counts = {**_counts(report), "robust": _as_text({label: report.robust[label]})}
        correct = self._white_box_on(name, counts["n"], _norm(self._attack(part.attack)))
        if correct is not None:
            counts["correct"]["white box"] = correct
        return counts

    def _white_box_on(self, name: str, n: int, norm: str) -> int | None:
        """How many of the first n images stand all white-box attacks of that norm; None if there is none."""
        robust = RobustnessReport.from_json(self._folder / name / REPORT).robust
        attacks = white_box_attacks(self.config.evaluation, self.data.bounds)
        masks = [robust[one][:n] for one, attack in attacks.items() if _norm(attack) == norm]
        return int(np.logical_and.reduce(masks).sum()) if masks else None

    def _blackbox(self, name: str, part: Part) -> dict[str, Any]:
        boundary, growing = black_box_attacks(part, self.data.bounds)
        walk = self._report(name, {"Boundary": boundary}, part, keep=True)
        # One walk as near as it comes answers for every radius.
        x, _ = self._images(part)
        far = np.where(walk.robust["Boundary"], np.inf, distances(x, walk.x_adv["Boundary"], "l2"))
        far[~walk.robust["clean"]] = 0
        report = self._report(name, growing, part)
        # What fell within a ball falls within larger ones, which contain it.
        left = np.logical_and.accumulate([report.robust[label] for label in growing], axis=0)
        return {
            "n": len(far),
            "clean": int(walk.robust["clean"].sum()),
            "white box": self._white_box_on(name, len(far), "l2"),
            "eps": list(radii_of(part).values()),
            "Boundary": [int((far > eps).sum()) for eps in radii_of(part).values()],
            "N-Attack": [int(one.sum()) for one in left],
        }

    def _audit(self, name: str, part: Part) -> dict[str, Any]:
        x, y = self._images(part)
        attack, source = self._attack(part.attack), self.config.recipe(name).source
        audit = masking_audit(
            self._model(name),
            *(x, y, attack.eps),
            norm=attack.norm,
            steps=attack.steps,
            bounds=self.data.bounds,
            twin=self._model(source) if source else None,
            batch_size=self.config.evaluation.batch_size,
            seed=self.seed,
            cache=self._folder / name / CACHE,
        )
        checks = [dataclasses.asdict(check) for check in audit.checks]
        return {"n": audit.n, "failed": list(audit.failed), "checks": checks, "accuracy": audit.accuracy}

    def _corruptions(self, name: str, part: Part) -> dict[str, Any]:
        robust = self._report(name, CORRUPTION_SET, part).robust
        masks = [robust[f"{one}-{severity}"] for one in CORRUPTIONS for severity in SEVERITIES]
        return {"n": sum(map(len, masks)), "correct": {CORRUPTION_SET: int(np.sum(masks))}}


def _norm(attack: Any) -> str:
    return getattr(attack, "norm", "l2")


def _as_text(masks: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Sample by sample "1" where it stands, for comparisons with other models on the same images."""
    return {label: "".join("01"[int(one)] for one in mask) for label, mask in masks.items()}


def _counts(report: RobustnessReport) -> dict[str, Any]:
    """Samples right under each attack, and their number."""
    return {"n": report.rows[0].n, "correct": {row.name: row.correct for row in report.rows}}
