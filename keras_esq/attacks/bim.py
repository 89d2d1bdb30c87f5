"""BIM: PGD from the image itself."""

from __future__ import annotations

from dataclasses import dataclass

from keras_esq.attacks.gradient import IterativeAttack


@dataclass(frozen=True, kw_only=True, eq=False)
class BIM(IterativeAttack):
    """Basic iterative method: FGSM steps projected into the eps ball, from the image itself.

    Args: as `IterativeAttack`: eps=8/255, step_size=2/255, steps=10, norm="linf", loss="ce"; bounds, targeted, seed.

    Reference: Kurakin et al., "Adversarial Examples in the Physical World", 2017.
    """
