"""Random noise as an attack: what any attack by gradient must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_esq._checks import check_positive
from keras_esq.attacks import BlackBoxAttack
from keras_esq.attacks.norms import Norm, get_norm
from keras_esq.attacks.oracle import Questions


@dataclass(frozen=True, kw_only=True, eq=False)
class RandomNoise(BlackBoxAttack):
    """Draws from the surface of the ball until one fools: corners of the L-inf ball, directions of the L2 ball.

    Args:
        eps: radius of the ball in input units. Default 8/255.
        norm: "linf" or "l2". Default "linf".
        query_budget: as `BlackBoxAttack`. Default 101: a hundred draws.
        Others: bounds, targeted, seed.
    """

    eps: float = 8 / 255
    norm: Norm = "linf"
    query_budget: int = 101

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("eps", check_positive("eps", self.eps))
        self._set("norm", get_norm(self.norm))

    def search(self, questions: Questions, x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """See `BlackBoxAttack.search`."""
        result, success = x.copy(), np.zeros(len(x), bool)
        alive = np.arange(len(x))
        for _ in range(self.query_budget - 1):
            if not len(alive):
                break
            noise = rng.standard_normal((len(alive), x[0].size), dtype=np.float32)
            unit = np.sign(noise) if self.norm == "linf" else noise / np.linalg.norm(noise, axis=1, keepdims=True)
            drawn = x[alive] + np.float32(self.eps) * unit.reshape(x[alive].shape)
            drawn = np.clip(drawn, *self.bounds).astype(np.float32)
            fooled = questions.fooled(questions.ask(drawn, alive), alive)
            result[alive[fooled]], success[alive[fooled]] = drawn[fooled], True
            alive = alive[~fooled]
        return result, success
