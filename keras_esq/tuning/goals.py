"""What a search is for: names of metrics, their directions and weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from keras_esq._checks import check_positive

FILE_BYTES = "file_bytes"
# keras-tuner's name for the single number of a search with several objectives.
MULTI_OBJECTIVE = "multi_objective"


@dataclasses.dataclass(frozen=True)
class Goal:
    """One objective.

    Attributes:
        name: of the metric in the logs of `fit`, or "file_bytes".
        direction: "max" or "min".
        weight: its factor in the single number by which a search with several objectives goes.
    """

    name: str
    direction: str
    weight: float = 1.0

    def cost(self, value: float) -> float:
        """`value`, or its negative if more is better: always to be minimized."""
        return -value if self.direction == "max" else value


def as_goals(objective: Any) -> tuple[Goal, ...]:
    """The goals behind a name, a keras-tuner Objective, a list of these, or a dict {name: weight}.

    Raises:
        TypeError: for anything else.
        ValueError: for none, the same twice, a weight that is not > 0, or a name whose direction can't be told.
    """
    if isinstance(objective, Mapping):
        goals = tuple(
            dataclasses.replace(_goal(name), weight=check_positive(f"weight of {name!r}", weight))
            for name, weight in objective.items()
        )
    else:
        goals = tuple(_goal(one) for one in (objective if isinstance(objective, list | tuple) else [objective]))
    names = [goal.name for goal in goals]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"Expected at least one objective, and none twice. Received {names}. For example "
            "['val_adversarial_accuracy', 'file_bytes']."
        )
    return goals


def _goal(one: Any) -> Goal:
    name, direction = getattr(one, "name", one), getattr(one, "direction", None)
    if not isinstance(name, str):
        raise TypeError(
            "Expected an objective as a name such as 'val_adversarial_accuracy', a keras_tuner.Objective, a list of "
            f"them or a dict {{name: weight}}. Received {one!r}."
        )
    if direction is None:
        direction = _direction(name)
    if direction not in ("max", "min"):
        raise ValueError(f"Expected the direction of objective {name!r} to be 'max' or 'min'. Received {direction!r}.")
    return Goal(name, direction)


def _direction(name: str) -> str:
    if name.endswith("accuracy"):
        return "max"
    if name == FILE_BYTES or name.endswith("loss"):
        return "min"
    raise ValueError(
        f"Expected an objective whose direction its name tells: one that ends in 'accuracy' or 'loss', or 'file_bytes'."
        f" Received {name!r}. For any other metric pass keras_tuner.Objective({name!r}, 'max') or 'min'."
    )


def score_name(goals: tuple[Goal, ...]) -> str:
    """Name of the number by which trials are compared."""
    return goals[0].name if len(goals) == 1 else MULTI_OBJECTIVE


def score(goals: tuple[Goal, ...], metrics: Mapping[str, float], byte_scale: float) -> float:
    """The number by which epochs and trials are compared.

    One goal: its metric. Several: the weighted sum of their costs, to be minimized; bytes are counted in units of
    `byte_scale`, without which they would drown every accuracy.

    Raises:
        KeyError: for a metric that is missing.
    """
    if len(goals) == 1:
        return float(metrics[goals[0].name])
    unit = {goal.name: byte_scale if goal.name == FILE_BYTES else 1.0 for goal in goals}
    return float(sum(goal.weight * goal.cost(metrics[goal.name]) / unit[goal.name] for goal in goals))


def better(goals: tuple[Goal, ...], a: float, b: float | None) -> bool:
    """Whether score `a` is better than `b`; None is worse than any number, NaN no better than anything."""
    if math.isnan(a):
        return False
    if b is None:
        return True
    return a > b if len(goals) == 1 and goals[0].direction == "max" else a < b


def pareto(goals: tuple[Goal, ...], points: Iterable[Mapping[str, float]]) -> list[bool]:
    """For each point whether no other is at least as good in every goal and better in one."""
    costs = [tuple(goal.cost(point[goal.name]) for goal in goals) for point in points]
    return [not any(_dominates(other, cost) for other in costs) for cost in costs]


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
