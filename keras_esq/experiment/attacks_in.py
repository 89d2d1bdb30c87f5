"""Attacks of an experiment, from tables as TOML gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_esq import attacks
from keras_esq._checks import check_positive, near_matches
from keras_esq.experiment.evaluation_config import Evaluation, Part
from keras_esq.experiment.tables_in import check_keys, number


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
