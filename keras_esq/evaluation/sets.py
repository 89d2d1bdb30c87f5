"""Which attacks an evaluation runs: named sets, and names for the attacks of a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras_esq._checks import near_matches
from keras_esq.attacks import FGSM, PGD, Attack

# Rows of a report that are no attack.
CLEAN, WORST_CASE = "clean", "worst case"


def _quick() -> dict[str, Attack]:
    # PGD a little stronger than in training (20 steps), and with restarts, as a single run overstates robustness.
    return {"fgsm": FGSM(), "pgd": PGD(steps=20, restarts=5)}


ATTACK_SETS: dict[str, Callable[[], dict[str, Attack]]] = {"quick": _quick}


def attack_set(name: str) -> dict[str, Attack]:
    """The attacks {name: attack} of a named set: "quick" (FGSM, and PGD of 20 steps with 5 restarts; eps 8/255).

    Raises:
        ValueError: for an unknown name, with near matches.
    """
    if name not in ATTACK_SETS:
        raise ValueError(f"Expected the name of an attack set. Received: {name!r}. {near_matches(name, ATTACK_SETS)}")
    return ATTACK_SETS[name]()


def get_attacks(attacks: Any) -> dict[str, Attack]:
    """The attacks {name: attack} behind a set's name, an attack, a list or a dict of attacks.

    Attacks of a list are named by their class in lower case, the second of a kind "pgd-2" and so on.

    Raises:
        TypeError: for anything that is no attack.
        ValueError: for an unknown set, an empty list, a reserved name or a targeted attack.
    """
    if isinstance(attacks, str):
        return attack_set(attacks)
    if isinstance(attacks, Attack):
        attacks = [attacks]
    if isinstance(attacks, Mapping):
        named = dict(attacks)
    elif isinstance(attacks, list | tuple):
        named = {}
        for attack in attacks:
            name = type(attack).__name__.lower()
            count = sum(type(other) is type(attack) for other in named.values())
            named[name if not count else f"{name}-{count + 1}"] = attack
    else:
        raise TypeError(f"Expected a set's name, an attack, a list or a dict of attacks. Received: {attacks!r}.")
    if not named:
        raise ValueError("Expected at least one attack. Received none. Use attacks='quick' for a first look.")
    for name, attack in named.items():
        if not isinstance(attack, Attack):
            raise TypeError(
                f"Expected {name!r} to be an attack such as PGD(eps=8/255). Received: {attack!r}. "
                "Make an instance of the class, or subclass keras_esq.attacks.Attack."
            )
        if not isinstance(name, str) or name in (CLEAN, WORST_CASE):
            raise ValueError(f"Expected attack names other than {CLEAN!r} and {WORST_CASE!r}. Received: {name!r}.")
        if attack.targeted:
            raise ValueError(
                f"Expected untargeted attacks: robust means that no wrong class is reached. "
                f"Received targeted {name!r}. Set targeted=False."
            )
    return named
