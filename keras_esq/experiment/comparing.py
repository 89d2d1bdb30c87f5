"""Two runs side by side."""

from __future__ import annotations

import os
from typing import Any

from keras_esq.experiment.results import Results, Share, read_results
from keras_esq.experiment.tables import Table, columns_of


def compare(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Table:
    """The models that two experiments have in common, under the white-box attacks that both were given.

    Args:
        a, b: their folders.

    Returns:
        A `Table` with three rows a model: a, b, and the difference b - a in points; `print(table.to_text())`.

    Raises:
        FileNotFoundError: if one is no folder of an experiment.
        ValueError: if they have no model or no attack in common.
    """
    one, other = (read_results(path) for path in (a, b))
    names = [recipe.name for recipe in one.having("attacks") if other.of(recipe.name, "attacks")]
    columns = [attack for attack in _columns(one) if attack in _columns(other)]
    if not names or not columns:
        raise ValueError(
            f"Expected two experiments with models and attacks in common. Received models "
            f"{[recipe.name for recipe in one.models]} and {[recipe.name for recipe in other.models]}."
        )
    rows: list[tuple[Any, ...]] = []
    for name in names:
        ours, theirs = ([results.share(name, column) for column in columns] for results in (one, other))
        rows += [(name, str(a), *ours), (name, str(b), *theirs)]
        rows.append((name, "difference", *map(_difference, ours, theirs)))
    notes = tuple(
        f"{column} is another attack in each: {one.config.evaluation.attacks[column]} and "
        f"{other.config.evaluation.attacks[column]}."
        for column in columns
        if one.config.evaluation.attacks.get(column) != other.config.evaluation.attacks.get(column)
    )
    return Table("compare", f"{a} and {b}: accuracy (%)", ("model", "", *columns), tuple(rows), notes)


def _columns(results: Results) -> list[str]:
    return columns_of(results) if results.having("attacks") else []


def _difference(one: Share | None, other: Share | None) -> str | None:
    return None if one is None or other is None else f"{other.mean - one.mean:+.1f}"
