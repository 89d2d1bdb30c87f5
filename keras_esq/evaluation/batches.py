"""One batch under one attack, seeded and checked; the same for reports, curves and transfer."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_esq._checks import check_images
from keras_esq.attacks import Attack


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchOutcome:
    """What an attack made of a batch.

    Args:
        x_adv: images (n, ...), checked: finite, in the box, of the shape of the clean ones.
        queries: questions asked about each, (n,); None for attacks that don't count them.
        seconds: how long it took, compiling included.
    """

    x_adv: np.ndarray
    queries: np.ndarray | None
    seconds: float


def seeded(attack: Attack, seed: int, number: int) -> Attack:
    """`attack` with the seed of batch `number`, whatever other attacks are run; its own seed has precedence."""
    base = seed if attack.seed is None else attack.seed
    # Compiled functions don't depend on the seed.
    batch_seed = int(np.random.SeedSequence([base, number]).generate_state(1)[0] % 2**31)
    return dataclasses.replace(attack, seed=batch_seed)


def attack_batch(model: Any, attack: Attack, images: np.ndarray, labels: np.ndarray) -> BatchOutcome:
    """Attack `images` (n, ...) of the true classes `labels` (n,), all at once.

    Raises:
        ValueError: if the attack returns images that are not finite, leave the box or have another shape.
    """
    start = time.perf_counter()
    result = attack.run(model, images, labels, batch_size=len(images))
    # Attacks may be the user's own: one that cheats would make any model look weak.
    name = f"the images of {type(attack).__name__}"
    x_adv = check_images(result.x_adv, attack.bounds, images.shape, name=name)
    if len(x_adv) != len(images):
        raise ValueError(f"Expected {name} to be as many as were attacked, {len(images)}. Received {len(x_adv)}.")
    return BatchOutcome(x_adv=x_adv, queries=result.queries, seconds=time.perf_counter() - start)
