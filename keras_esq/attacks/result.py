"""What an attack hands back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackResult:
    """Images and what is known about them, from `attack.run`.

    Args:
        x_adv: adversarial images (n, ...), float32.
        success: (n,) bool, True where the attack has what it wants at `x_adv`: another class than the true one, or the
            target. A sample that was wrong before the attack counts as well.
        queries: (n,) int64, how often the model was asked about each sample, its clean image included; None for attacks
            that use gradients.
    """

    x_adv: np.ndarray
    success: np.ndarray
    queries: np.ndarray | None = None
