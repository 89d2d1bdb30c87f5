"""From recipes to objects: attacks, networks, compiled models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_esq import attacks, models
from keras_esq._checks import check_positive, near_matches
from keras_esq._keras import keras
from keras_esq.data import Dataset, steps_per_epoch
from keras_esq.experiment.config import Config, Network, Recipe
from keras_esq.experiment.evaluation_config import Evaluation, Part
from keras_esq.experiment.tables_in import check_keys, check_type, number
from keras_esq.quantize import get_schedule, quantize_model
from keras_esq.training import ActivationPairing, ErrorSilencedModel, LogitPairing, load_model
from keras_esq.training.objectives import build

LOSS = "sparse_categorical_crossentropy"
# A weight for each layer of an activation pairing whose preset names none.
ACTIVATION_WEIGHT = 0.5


def build_attack(table: Mapping[str, Any], bounds: tuple[float, float], **changes: Any) -> attacks.Attack:
    """The attack of a table {"attack": class in esq.attacks, and its settings}; fractions as text are numbers.

    Args:
        table: see above.
        bounds: of the images.
        changes: further settings, which win.

    Raises:
        TypeError, ValueError: for an unknown class or setting, with near matches, or an unusable value.
    """
    settings = {**table, **changes}
    name = settings.pop("attack", None)
    known = [one for one in attacks.__all__ if one[0].isupper() and not one.endswith(("Attack", "Result"))]
    known += ["NAttack", "AutoAttack"]
    if name not in known:
        raise ValueError(
            f"Expected an attack of esq.attacks in {dict(table)}. Received: {name!r}. {near_matches(str(name), known)}"
        )
    kind = getattr(attacks, name)
    fields = [field for field in kind.__dataclass_fields__ if field not in ("bounds", "targeted")]
    check_keys(settings, fields, f"an attack {name!r}")
    texts = ("norm", "loss", "version", "temperature")
    return kind(bounds=bounds, **{key: value if key in texts else number(value) for key, value in settings.items()})


def build_network(network: Network, data: Dataset) -> Any:
    """The float network with new weights."""
    return models.build(network.name, data.input_shape, data.classes, **network.options)


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
    network = _network(recipe.source, config, data, folder)
    if recipe.weights:
        if not _is_low_bit(network):
            network = quantize_model(network, recipe.weights, **recipe.quantize)
        get_schedule(as_schedule(recipe.ratio))
    attack = None if recipe.objective == "natural" else build_attack(recipe.attack, data.bounds)
    validation = build_attack(recipe.attack, data.bounds) if _validates_attack(recipe) else None
    options: dict[str, Any] = {"objective": build_objective(recipe, config, data, folder)}
    if recipe.objective == "pairing":
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
        options["teacher"] = _network(options["teacher"], config, data, folder)
    return build(recipe.objective, **options) if options else recipe.objective


def build_pairing(recipe: Recipe, network: Network) -> Any:
    """The pairing of a recipe; names of layers may be aliases of [network.layers]."""
    settings = dict(recipe.pairing)
    chosen = settings.pop("layers", None)
    if not chosen:
        return LogitPairing(**settings)
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
        else:
            build_attack(part.attack, data.bounds)


def white_box_attacks(evaluation: Evaluation, bounds: tuple[float, float]) -> dict[str, attacks.Attack]:
    """The attacks of [evaluation.attacks]."""
    return {label: build_attack(table, bounds) for label, table in evaluation.attacks.items()}


def radii_of(part: Part) -> dict[str, float]:
    """{label: eps} of a part with several radii."""
    return {f"{check_positive('eps', number(eps)):.4g}": number(eps) for eps in part.eps}


def growing_attacks(part: Part, bounds: tuple[float, float]) -> dict[str, attacks.Attack]:
    """A part's attack at each of its radii, a step in proportion."""
    table = part.attack
    if "step_size" not in table:
        return {label: build_attack(table, bounds, eps=eps) for label, eps in radii_of(part).items()}
    if "eps" not in table:
        raise ValueError(f"Expected eps beside step_size, which grows with it. Received: {table}.")
    step = number(table["step_size"]) / check_positive("eps", number(table["eps"]))
    return {label: build_attack(table, bounds, eps=eps, step_size=step * eps) for label, eps in radii_of(part).items()}


def black_box_attacks(part: Part, bounds: tuple[float, float]) -> tuple[attacks.Attack, dict[str, attacks.Attack]]:
    """Boundary, which comes as near as it can, and N-Attack at each radius, both in L2."""
    radii = radii_of(part).items()
    queries = {"attack": "NAttack", "norm": "l2", **part.nattack}
    growing = {label: build_attack(queries, bounds, eps=eps) for label, eps in radii}
    return build_attack({"attack": "Boundary", **part.boundary}, bounds), growing


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


def _network(name: str, config: Config, data: Dataset, folder: Path | None) -> Any:
    """The trained network of that model; new weights for no name, or without a folder."""
    if name and folder is not None:
        return load_model(folder / name / "model.keras", compile=False).network
    network = build_network(config.network, data)
    if name and (weights := config.recipe(name).weights):
        network = quantize_model(network, weights, **config.recipe(name).quantize)
    return network


def _is_low_bit(network: Any) -> bool:
    from keras_esq.quantize import low_bit_weights

    return bool(low_bit_weights(network))


def _validates_attack(recipe: Recipe) -> bool:
    return recipe.restore_best.startswith("val_adversarial")


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
    else:
        rate = recipe.learning_rate
    kind = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}[recipe.optimizer]
    return kind(rate, **recipe.optimizer_options)
