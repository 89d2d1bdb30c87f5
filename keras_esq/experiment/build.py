"""From recipes to compiled models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.data import Dataset, steps_per_epoch
from keras_esq.experiment.attacks_in import black_box_attacks, build_attack, growing_attacks, white_box_attacks
from keras_esq.experiment.config import Config, Network
from keras_esq.experiment.networks import network_of, trained_network
from keras_esq.experiment.recipe import PAIRS, Recipe
from keras_esq.experiment.tables_in import check_type
from keras_esq.quantize import get_schedule
from keras_esq.training import (
    ActivationPairing,
    CosineStages,
    ErrorSilencedModel,
    Orthogonality,
    WeightPerturbation,
)
from keras_esq.training.objectives import OBJECTIVES, build

LOSS = "sparse_categorical_crossentropy"
# A weight for each layer of an activation pairing whose preset names none.
ACTIVATION_WEIGHT = 0.5


def build_model(recipe: Recipe, config: Config, data: Dataset, seed: int, folder: Path | None) -> ErrorSilencedModel:
    """The compiled model of a recipe, before its training.

    Args:
        recipe: the model's.
        config: the experiment.
        data: its data.
        seed: of weights, order, partitions and attacks.
        folder: of the seed, with the models that this one needs; None to only check the recipe, with new weights.
    """
    keras.utils.set_random_seed(seed)
    network = network_of(recipe, config, data, folder)
    if recipe.weights:
        get_schedule(as_schedule(recipe.ratio))
    attack: Any = None if recipe.objective == "natural" else build_attack(recipe.attack, data.bounds)
    if recipe.warm_up.get("eps"):
        attack = dataclasses.replace(attack, eps=tf.Variable(attack.eps, trainable=False))
    validates = recipe.restore_best.startswith("val_adversarial")
    validation = build_attack(recipe.validation_attack or recipe.attack, data.bounds) if validates else None
    options: dict[str, Any] = {"objective": build_objective(recipe, config, data, folder)}
    if recipe.orthogonality:
        options["regularizer"] = Orthogonality(recipe.orthogonality)
    if recipe.weight_perturbation:
        options["weight_perturbation"] = WeightPerturbation(recipe.weight_perturbation)
    options["attack_statistics"] = recipe.attack_statistics
    if recipe.attack_dtype:
        options["attack_dtype"] = recipe.attack_dtype
    if recipe.objective in PAIRS:
        options["pairing"] = build_pairing(recipe, config.network)
    model = ErrorSilencedModel(
        network, attack=attack, validation_attack=validation, seed=seed, name=recipe.name.replace(" ", "_"), **options
    )
    batches = steps_per_epoch(len(data.x_train), recipe.batch_size)
    model.compile(_optimizer(recipe, batches), LOSS, metrics=["accuracy"])
    return model


def build_objective(recipe: Recipe, config: Config, data: Dataset, folder: Path | None) -> Any:
    """What ErrorSilencedModel takes as its objective."""
    options = dict(recipe.objective_options)
    if isinstance(options.get("teacher"), str):
        options["teacher"] = trained_network(options["teacher"], config, data, folder)
    return build(recipe.objective, **options) if options else recipe.objective


def build_pairing(recipe: Recipe, network: Network) -> Any:
    """The pairing of a recipe; names of layers may be aliases of [network.layers]."""
    settings = dict(recipe.pairing)
    chosen = settings.pop("layers", None)
    if not chosen:
        return dataclasses.replace(OBJECTIVES[recipe.objective].default_pairing, **settings)
    weight = settings.pop("weight", ACTIVATION_WEIGHT)
    weights = dict(chosen) if isinstance(chosen, Mapping) else {str(name): weight for name in chosen}
    return ActivationPairing({network.layers.get(name, name): value for name, value in weights.items()}, **settings)


def check_recipes(config: Config, data: Dataset) -> None:
    """Build each model and attack once, so that a mistake in the last one shows before the first is trained."""
    for recipe in config.models:
        try:
            build_model(recipe, config, data, 0, None)
        except (TypeError, ValueError) as error:
            raise type(error)(f"[[models]] {recipe.name!r}: {error}") from error
    white_box_attacks(config.evaluation, data.bounds)
    for part in config.evaluation.parts.values():
        if part.boundary or part.nattack:
            black_box_attacks(part, data.bounds)
        elif part.eps:
            growing_attacks(part, data.bounds)
        elif part.attack:
            build_attack(part.attack, data.bounds)


def as_schedule(ratio: Any) -> Any:
    """A schedule of the ratio; TOML's keys are text, epochs are numbers."""
    if not isinstance(ratio, Mapping):
        return ratio
    return {_epoch(epoch): value for epoch, value in ratio.items()}


def _epoch(text: Any) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"Expected epochs as keys, such as {{0 = 0.5, 10 = 1.0}}. Received: {text!r}.") from error


def _optimizer(recipe: Recipe, batches: int) -> Any:
    schedules = keras.optimizers.schedules
    if isinstance(recipe.schedule, Mapping):
        points = sorted(
            (_epoch(epoch), check_type(rate, float, "a learning rate")) for epoch, rate in recipe.schedule.items()
        )
        rates = [recipe.learning_rate, *(rate for _, rate in points)]
        rate = schedules.PiecewiseConstantDecay([epoch * batches for epoch, _ in points], rates)
    elif recipe.schedule == "cosine":
        rate = schedules.CosineDecay(recipe.learning_rate, recipe.epochs * batches)
    elif recipe.schedule == "restarts":
        ratio = as_schedule(recipe.ratio) if recipe.weights else "full"
        rate = CosineStages.of_ratio(recipe.learning_rate, ratio, recipe.epochs, batches)
    else:
        rate = recipe.learning_rate
    kind = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}[recipe.optimizer]
    return kind(rate, **recipe.optimizer_options)
