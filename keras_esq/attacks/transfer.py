"""Transfer: images made against one model, tried on another."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_esq._checks import check_bounds
from keras_esq._keras import keras
from keras_esq.attacks.base import Attack
from keras_esq.attacks.eager import EagerAttack
from keras_esq.attacks.logits import check_model
from keras_esq.attacks.oracle import Oracle
from keras_esq.attacks.result import AttackResult


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Transfer(EagerAttack):
    """An attack on `source_model`, whose images are then tried on the attacked model, which may be any classifier.

    It asks once about each result: 2 queries with that about the clean image.

    Args:
        source_model: a tf_keras model (or what else `attack` takes) with the classes and the input range of the model
            that is attacked.
        attack: what is run against it.
        bounds, targeted: those of `attack`; need not be given.
        seed: as `Attack`; None leaves it to `attack`.

    Raises:
        TypeError: if `attack` is not an attack.
        ValueError: if bounds or targeted differ from those of `attack`.

    Reference: Papernot et al., "Practical Black-Box Attacks against Machine Learning", 2017 (arXiv:1602.02697).
    """

    source_model: Any
    attack: Attack

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise TypeError(f"Expected attack to be an attack such as PGD(). Received: {self.attack!r}.")
        if not isinstance(self.attack, EagerAttack):
            check_model(self.source_model)
        for name, default in (("bounds", (0.0, 1.0)), ("targeted", False)):
            given, wanted = getattr(self, name), getattr(self.attack, name)
            if name == "bounds":
                given = check_bounds(given)
            if given not in (default, wanted):
                raise ValueError(
                    f"Expected {name} as in the attack, {wanted!r}, or not given. Received: {given!r}. "
                    f"Set it in {type(self.attack).__name__}."
                )
            self._set(name, wanted)
        super().__post_init__()

    def attack_right(
        self, model: Any, oracle: Oracle, x: np.ndarray, labels: np.ndarray, scores: np.ndarray, batch_size: int
    ) -> AttackResult:
        """See `EagerAttack.attack_right`."""
        attack = self.attack if self.seed is None else dataclasses.replace(self.attack, seed=self.seed)
        target = {"y_target": labels} if self.targeted else {}
        x_adv = np.asarray(attack(self.source_model, x, labels, batch_size=batch_size, **target))
        success = np.equal(oracle(x_adv).argmax(axis=1), labels) == self.targeted
        return AttackResult(x_adv=x_adv, success=success, queries=np.full(len(x), 2))

    def __repr__(self) -> str:
        source = self.source_model
        name = source.name if isinstance(source, keras.Model) else type(source).__name__
        return f"Transfer(source_model={name!r}, attack={self.attack!r})"
