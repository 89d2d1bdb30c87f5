"""Images made against one model, tried on the others."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_esq._checks import check_count, check_images, check_labels, check_seed, near_matches
from keras_esq._files import as_json
from keras_esq._text import aligned
from keras_esq.attacks import Attack
from keras_esq.evaluation.batches import attack_batch, seeded
from keras_esq.evaluation.sets import check_usable, get_attacks
from keras_esq.evaluation.targets import Target, get_target


@dataclass(frozen=True, kw_only=True, eq=False)
class TransferMatrix:
    """What `transfer_matrix` found.

    Args:
        sources: names of the models that the images were made against.
        targets: names of the models that they were tried on.
        accuracy: (sources, targets), share of samples that the target gets right both as they are and attacked; NaN for
            a model against itself without a twin.
        clean: (targets,), share that it gets right as they are.
        attack: the attack's settings.
        n: number of samples.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    accuracy: np.ndarray
    clean: np.ndarray
    attack: str
    n: int

    def __getitem__(self, pair: tuple[str, str]) -> float:
        """The accuracy of `matrix[source, target]`.

        Raises:
            KeyError: for unknown names, with near matches.
        """
        source, target = pair
        for name, known in ((source, self.sources), (target, self.targets)):
            if name not in known:
                raise KeyError(f"Expected a model of this matrix. Received: {name!r}. {near_matches(name, known)}")
        return float(self.accuracy[self.sources.index(source), self.targets.index(target)])

    def table(self) -> str:
        """Accuracies in % as aligned text: a row a source, a column a target; "-" where there is no twin."""
        rows = [("no attack", self.clean), *zip(self.sources, self.accuracy, strict=True)]
        cells = [[name, *("-" if np.isnan(one) else f"{100 * one:.1f}" for one in row)] for name, row in rows]
        return aligned([["from \\ on", *self.targets], *cells])

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The matrix as JSON text (NaN as null), also written to `path` if given (whole or not at all).

        Raises:
            OSError: if `path` can't be written.
        """
        content = {
            "sources": self.sources,
            "targets": self.targets,
            "accuracy": [[None if np.isnan(one) else float(one) for one in row] for row in self.accuracy],
            "clean": self.clean.tolist(),
            "attack": self.attack,
            "n": self.n,
        }
        return as_json(content, path)

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw the matrix as a heat map to `path` (PNG unless its suffix says otherwise).

        Raises:
            OSError: if `path` can't be written.
            ValueError: if matplotlib doesn't know the format.
        """
        from keras_esq.evaluation.plots import plot_transfer

        return plot_transfer(self, path)


def transfer_matrix(
    models: Mapping[str, Any],
    x: Any,
    y: Any,
    attack: Attack,
    twins: Mapping[str, Any] | None = None,
    *,
    only: str | Sequence[str] | None = None,
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = False,
) -> TransferMatrix:
    """Try the images that `attack` makes against each model on all models.

    A model against itself would be a white-box attack. As in [ESQ], its own row is attacked through a twin: the same
    network trained from scratch with another seed.

    Args:
        models: {name: model}. All are targets; those that `attack` can attack, tf_keras models for attacks by gradient,
            are sources too. So a `keras_esq.Flatbuffer` may be a target.
        x: images (n, ...) in the attack's `bounds`.
        y: true class ids (n,) or (n, 1), or one-hot rows (n, k).
        attack: run against each source; untargeted.
        twins: {name: twin} for those of `models` that have one; the others get NaN against themselves.
        only: name or names of the sources, for a part of the matrix; default all that can be attacked.
        batch_size: images attacked and predicted at once.
        seed: int in [0, 2**31), as for `evaluate_robustness`.
        progress: show a progress bar on stderr.

    Raises:
        TypeError: if `models` is no dict, a model no classifier, or none of them can be attacked by `attack`.
        ValueError: if there is no model, a twin of none of them, or one that is the model itself; for models of
            different classes; else as `evaluate_robustness`.

    Reference: [ESQ], the transfer attacks.
    """
    check_count("batch_size", batch_size)
    check_seed("seed", seed)
    ((_, attack),) = get_attacks([attack]).items()
    targets = _targets(models)
    doubles = _twins(twins or {}, models, targets)
    for target in (*targets.values(), *doubles.values()):
        images = check_images(x, attack.bounds, target.input_shape)
    answers = {name: target.logits(images, batch_size) for name, target in targets.items()}
    classes = {name: answer.shape[1] for name, answer in answers.items()}
    if len(set(classes.values())) > 1:
        raise ValueError(f"Expected models of the same classes. Received numbers of classes: {classes}.")
    labels = check_labels(y, min(classes.values()), len(images))
    right = {name: answer.argmax(axis=1) == labels for name, answer in answers.items()}
    sources = _sources(targets if only is None else _chosen(targets, only), attack)
    accuracy = np.full((len(sources), len(targets)), np.nan)

    def crafted(source: Target) -> np.ndarray:
        batches = [slice(i, i + batch_size) for i in range(0, len(images), batch_size)]
        return np.concatenate([
            attack_batch(source.model, seeded(attack, seed, number), images[batch], labels[batch]).x_adv
            for number, batch in enumerate(batches)
        ])  # fmt: skip

    for row, name in enumerate(tqdm(sources, disable=not progress, unit="model")):
        x_adv = crafted(targets[name])
        for column, (other, target) in enumerate(targets.items()):
            if other == name and name not in doubles:
                continue
            tried = crafted(doubles[name]) if other == name else x_adv
            still = target.logits(tried, batch_size).argmax(axis=1) == labels
            accuracy[row, column] = np.mean(right[other] & still)
    return TransferMatrix(
        sources=tuple(sources),
        targets=tuple(targets),
        accuracy=accuracy,
        clean=np.array([mask.mean() for mask in right.values()]),
        attack=repr(attack),
        n=len(images),
    )


def _targets(models: Any) -> dict[str, Target]:
    if not isinstance(models, Mapping):
        raise TypeError(f"Expected models as a dict {{name: model}}. Received: {type(models).__name__}.")
    if not models:
        raise ValueError("Expected at least one model {name: model}. Received none.")
    return {str(name): get_target(model) for name, model in models.items()}


def _twins(twins: Mapping[str, Any], models: Mapping[str, Any], targets: Mapping[str, Target]) -> dict[str, Target]:
    given = {str(name): model for name, model in models.items()}
    for name, twin in twins.items():
        if name not in targets:
            raise ValueError(f"Expected twins of the models. Received one of {name!r}. {near_matches(name, targets)}")
        if twin is given[name]:  # not the target's model, which is a translation if this is of Keras 3
            raise ValueError(
                f"Expected a twin of {name!r}: the same network trained from scratch. Received the model itself, "
                "against which the attack is no transfer."
            )
    return {name: get_target(twin) for name, twin in twins.items()}


def _chosen(targets: dict[str, Target], names: str | Sequence[str]) -> dict[str, Target]:
    names = [names] if isinstance(names, str) else names
    for name in names:
        if name not in targets:
            raise ValueError(f"Expected names of the models in only. Received: {name!r}. {near_matches(name, targets)}")
    return {name: targets[name] for name in names}


def _sources(targets: Mapping[str, Target], attack: Attack) -> list[str]:
    able, problem = [], None
    for name, target in targets.items():
        try:
            check_usable({type(attack).__name__: attack}, target)
            able.append(name)
        except TypeError as error:
            problem = error
    if problem is not None and not able:
        raise problem
    return able
