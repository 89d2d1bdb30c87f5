"""What an experiment is: data, network, models and their recipes, evaluation; from tables as TOML gives them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_esq._checks import check_count
from keras_esq.experiment.evaluation_config import Evaluation, evaluation_from
from keras_esq.experiment.recipe import Recipe, check_recipe
from keras_esq.experiment.tables_in import check_keys, check_type, fields_of, received, strings, without_defaults


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The table [data].

    Attributes:
        name: a data set's name, an .npz file or an image folder, as `keras_esq.data.resolve` takes it.
        train, validation: just the first so many images; 0 for all.
        augment: of the training images; empty for the data set's own choice.
    """

    name: str = "digits"
    train: int = 0
    validation: int = 0
    augment: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """The table [network].

    Attributes:
        name: as `keras_esq.models.build` takes it.
        options: of the function that builds it, such as width.
        layers: {alias: name of a layer}; pairings may name layers by alias, which may differ from network to network.
    """

    name: str = "small_cnn"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    layers: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A whole experiment.

    Attributes:
        data, network: see there.
        models: in an order in which each comes after those that it needs.
        evaluation: see there.
    """

    data: Data
    network: Network
    models: tuple[Recipe, ...]
    evaluation: Evaluation

    def recipe(self, name: str) -> Recipe:
        """The recipe of that model."""
        return next(recipe for recipe in self.models if recipe.name == name)

    def of_seed(self, seed: int) -> tuple[Recipe, ...]:
        """The recipes of the models that are trained with that seed."""
        return tuple(recipe for recipe in self.models if recipe.has_seed(seed))

    def tables(self) -> dict[str, Any]:
        """The experiment as tables without overrides, from which `config_from` makes the same again."""
        return {
            "data": without_defaults(self.data),
            "network": without_defaults(self.network),
            "models": [without_defaults(recipe) for recipe in self.models],
            "evaluation": self.evaluation.tables(),
        }


_TABLES = ("data", "network", "train", "models", "evaluation", "for")


def config_from(tables: Mapping[str, Any], dataset: str | None = None, model: str | None = None) -> Config:
    """The experiment that the tables of a preset describe.

    Tables [for.NAME.*] replace what stands in [*] if the data set or the network is called NAME. Each of [[models]]
    has what [train.defaults] says, then what the table [train.X] says that its `train = "X"` names, then its own.

    Args:
        tables: as TOML gives them.
        dataset, model: names in place of those in [data] and [network].

    Raises:
        TypeError, ValueError: for unknown keys, with near matches, and for unusable values.
    """
    tree: dict[str, Any] = copy.deepcopy(dict(tables))
    check_keys(tree, _TABLES, "the preset")
    overrides = check_type(tree.pop("for", {}), dict, "[for]")
    for one, table in overrides.items():
        check_keys(check_type(table, dict, f"[for.{one}]"), _TABLES[:-1], f"[for.{one}]")
        if "models" in table:
            raise ValueError(f"Expected [for.{one}] without models, which are the same for all. Change [train.*].")
    for place, given in (("data", dataset), ("network", model)):
        tree.setdefault(place, {})
        if given is not None and given != tree[place].get("name"):
            tree[place] = {**tree[place], "name": given}
            if place == "network":
                tree[place].pop("options", None)
        override = copy.deepcopy(overrides.get(str(tree[place].get("name")), {}))
        if place == "data" and model is not None:
            override.pop("network", None)
        _merge(tree, override)
    data = Data(**fields_of(Data, tree["data"], "[data]"))
    for name in ("train", "validation"):
        check_count(f"{name} of [data]", getattr(data, name), minimum=0)
    network = Network(**fields_of(Network, tree["network"], "[network]"))
    recipes = _recipes(tree.get("models"), check_type(tree.get("train", {}), dict, "[train]"))
    evaluation = evaluation_from(tree.get("evaluation", {}), [recipe.name for recipe in recipes])
    return Config(data=data, network=network, models=_ordered(recipes), evaluation=evaluation)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        # A table that names its attack is another attack, which must not keep the first one's settings.
        if isinstance(value, Mapping) and isinstance(base.get(key), dict) and not isinstance(value.get("attack"), str):
            _merge(base[key], value)
        else:
            base[key] = value


def _recipes(models: Any, train: Mapping[str, Any]) -> list[Recipe]:
    if not isinstance(models, list | tuple) or not models:
        raise ValueError(f"Expected at least one of [[models]] in the preset. Received: {models!r}.")
    common = check_type(train.get("defaults", {}), dict, "[train.defaults]")
    recipes: list[Recipe] = []
    for number, table in enumerate(models, start=1):
        own = dict(check_type(table, dict, f"[[models]] number {number}"))
        where = f"[[models]] {own.get('name', f'number {number}')!r}"
        named = own.pop("train", None)
        if named is not None and named not in train:
            raise ValueError(f"Expected train of {where} to name a table [train.*]. {received(named, train)}")
        parts = (common, check_type(train[named], dict, f"[train.{named}]") if named is not None else {}, own)
        # Whole values replace each other: an attack of another kind must not keep the first one's settings.
        merged = {key: value for part in parts for key, value in part.items()}
        fields = fields_of(Recipe, merged, where)
        if not fields.get("name"):
            raise ValueError(f"Expected a name in {where}.")
        if any(recipe.name == fields["name"] for recipe in recipes):
            raise ValueError(f"Expected each of [[models]] to have a name of its own. Received {where} twice.")
        recipes.append(check_recipe(Recipe(**fields), where))
    return recipes


def _ordered(recipes: list[Recipe]) -> tuple[Recipe, ...]:
    """The recipes, each after those that it needs, else as they are listed."""
    names = strings(recipe.name for recipe in recipes)
    by_name = dict(zip(names, recipes, strict=True))
    for recipe in recipes:
        for need in recipe.needs:
            if need not in by_name:
                raise ValueError(
                    f"Expected source and teacher of {recipe.name!r} in [[models]]. {received(need, names)}"
                )
            limit = by_name[need].seeds
            if limit and not 0 < recipe.seeds <= limit:
                raise ValueError(
                    f"Expected {recipe.name!r} with at most the {limit} seeds of {need!r}, which it needs. Received "
                    f"seeds = {recipe.seeds}{'' if recipe.seeds else ', all'}."
                )
    ordered: list[Recipe] = []
    while len(ordered) < len(recipes):
        done = {recipe.name for recipe in ordered}
        ready = [recipe for recipe in recipes if recipe.name not in done and done.issuperset(recipe.needs)]
        if not ready:
            left = [recipe.name for recipe in recipes if recipe.name not in done]
            raise ValueError(f"Expected sources and teachers that can be trained first. In a circle: {left}.")
        ordered.append(ready[0])
    return tuple(ordered)
