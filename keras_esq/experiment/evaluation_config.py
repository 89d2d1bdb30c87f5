"""What is measured: the tables [evaluation.*]."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_esq._checks import check_count, near_matches
from keras_esq.experiment.tables_in import check_keys, check_type, without_defaults


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the evaluation; each has its table [evaluation.PART], and without one it is left out.

    Attributes:
        models: names of the models; empty for all.
        images: just the first so many test images; 0 for as many as [evaluation] says.
        attack: {"attack": class in esq.attacks, and its settings}.
        eps: radii in input units, rising, for the parts that have several.
        boundary, nattack: settings of these two attacks, for "blackbox".
    """

    models: tuple[str, ...] = ()
    images: int = 0
    attack: dict[str, Any] = dataclasses.field(default_factory=dict)
    eps: tuple[Any, ...] = ()
    boundary: dict[str, Any] = dataclasses.field(default_factory=dict)
    nattack: dict[str, Any] = dataclasses.field(default_factory=dict)


ON = ("test", "validation")
# What each part must and may have besides models and images.
PARTS: dict[str, tuple[str, ...]] = {
    "strengths": ("attack", "eps"),
    "curve": ("attack", "eps"),
    "amplification": ("attack",),
    "transfer": ("attack",),
    "ensemble": ("attack",),
    "blackbox": ("eps", "boundary", "nattack"),
    "audit": ("attack",),
    "corruptions": (),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The table [evaluation].

    Attributes:
        on: "test", or "validation" for experiments by which a recipe is chosen; test images choose nothing.
        images: just the first so many of these images; 0 for all.
        batch_size: images attacked at once.
        attacks: white-box attacks {name: {"attack": class in esq.attacks, and its settings}} on every model.
        parts: {name: settings} of "strengths" (Table 1), "curve" (Figure 2), "amplification" (Figure 1), "transfer"
            (Table 3b), "ensemble" (AutoAttack), "blackbox" (Figure 3) and "audit" (the masking audit with eps, norm
            and steps of its attack, a PGD or the like, and the float source as the twin), and "corruptions" (the mean
            accuracy on corrupted images).
    """

    on: str = "test"
    images: int = 0
    batch_size: int = 250
    attacks: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    parts: dict[str, Part] = dataclasses.field(default_factory=dict)

    def tables(self) -> dict[str, Any]:
        """As a table of the preset."""
        own = {"on": self.on, "images": self.images, "batch_size": self.batch_size, "attacks": self.attacks}
        return {**own, **{name: without_defaults(part) for name, part in self.parts.items()}}


def evaluation_from(table: Any, models: Sequence[str]) -> Evaluation:
    """The evaluation that a table describes.

    Raises:
        TypeError, ValueError: for unknown keys or models, with near matches, and for unusable values.
    """
    known = ("on", "images", "batch_size", "attacks", *PARTS)
    check_keys(check_type(table, dict, "[evaluation]"), known, "[evaluation]")
    on = table.get("on", "test")
    if on not in ON:
        raise ValueError(
            f"Expected on of [evaluation] out of {list(ON)}. Received: {on!r}. {near_matches(str(on), ON)}"
        )
    images = check_count("images of [evaluation]", table.get("images", 0), minimum=0)
    batch_size = check_count("batch_size of [evaluation]", table.get("batch_size", 250))
    attacks = check_type(table.get("attacks", {}), dict, "[evaluation.attacks]")
    if not attacks:
        raise ValueError("Expected at least one attack in [evaluation.attacks]. Received none.")
    for name, settings in attacks.items():
        check_type(settings, dict, f"[evaluation.attacks.{name}]")
    parts = {name: _part(name, table[name], models) for name in PARTS if name in table}
    return Evaluation(on=on, images=images, batch_size=batch_size, attacks=attacks, parts=parts)


def _part(name: str, table: Any, models: Sequence[str]) -> Part:
    where = f"[evaluation.{name}]"
    settings: Mapping[str, Any] = check_type(table, dict, where)
    check_keys(settings, ("models", "images", *PARTS[name]), where)
    missing = [key for key in PARTS[name] if key not in settings]
    if missing:
        raise ValueError(f"Expected {', '.join(missing)} in {where}. Received: {', '.join(settings) or 'nothing'}.")
    check_count(f"images of {where}", settings.get("images", 0), minimum=0)
    for key in ("models", "eps"):
        if key in settings:
            check_type(settings[key], list, f"{key} of {where}")
    for key in ("attack", "boundary", "nattack"):
        if key in settings:
            check_type(settings[key], dict, f"{key} of {where}")
    for model in settings.get("models", ()):
        if model not in models:
            raise ValueError(f"Expected models of {where}. Received: {model!r}. {near_matches(model, models)}")
    lists = {key: tuple(settings[key]) for key in ("models", "eps") if key in settings}
    return Part(**{**settings, **lists})
