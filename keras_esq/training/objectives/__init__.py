"""What a training minimizes: objectives by name, or as instances with settings.

esq.ErrorSilencedModel(model, objective="trades")
esq.ErrorSilencedModel(model, objective=esq.training.Trades(beta=3.0))
"""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_esq._checks import near_matches
from keras_esq.training.objectives.base import Objective
from keras_esq.training.objectives.distillation import RobustDistillation
from keras_esq.training.objectives.free import Free
from keras_esq.training.objectives.mart import Mart
from keras_esq.training.objectives.pairing import AdversarialPairing, Pairing
from keras_esq.training.objectives.plain import Adversarial, Natural
from keras_esq.training.objectives.trades import Trades

OBJECTIVES: dict[str, type[Objective]] = {
    "natural": Natural,
    "adversarial": Adversarial,
    "pairing": Pairing,
    "adversarial_pairing": AdversarialPairing,
    "trades": Trades,
    "mart": Mart,
    "distillation": RobustDistillation,
    "free": Free,
}


def build(name: str, **options: Any) -> Objective:
    """The objective of an alias with options, such as build("trades", beta=3.0).

    Args:
        name: a key of `OBJECTIVES`.
        options: the arguments of its class.

    Raises:
        TypeError, ValueError: for an unknown name or option, a missing one, or what the class refuses.
    """
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise ValueError(
            f"Expected an objective out of {list(OBJECTIVES)}. Received {name!r}. {near_matches(name, OBJECTIVES)}"
        )
    cls = OBJECTIVES[name]
    fields = dataclasses.fields(cls)
    known = [field.name for field in fields]
    for option in options:
        if option not in known:
            raise ValueError(
                f"Expected options of the objective {name!r}. Received {option!r}. {near_matches(option, known)}"
            )
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in options]
    if missing:
        raise ValueError(
            f"Expected the option {missing[0]!r} for the objective {name!r}. Received none. Pass an instance: "
            f"objective=esq.training.{cls.__name__}({missing[0]}=...)."
        )
    return cls(**options)


def as_objective(objective: Any) -> Objective:
    """The objective behind an alias, a class or an instance.

    Raises:
        TypeError, ValueError: for anything else.
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, str):
        return build(objective)
    for name, cls in OBJECTIVES.items():
        if objective is cls:
            return build(name)
    raise TypeError(
        f"Expected an objective as a name out of {list(OBJECTIVES)}, or an instance such as esq.training.Trades("
        f"beta=6.0). Received {objective!r}."
    )


__all__ = [
    "OBJECTIVES",
    "Adversarial",
    "AdversarialPairing",
    "Free",
    "Mart",
    "Natural",
    "Objective",
    "Pairing",
    "RobustDistillation",
    "Trades",
    "as_objective",
    "build",
]
