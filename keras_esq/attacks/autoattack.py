"""AutoAttack: four attacks one after the other."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from keras_esq._checks import check_count, check_positive, near_matches
from keras_esq.attacks.apgd import APGD
from keras_esq.attacks.base import Attack
from keras_esq.attacks.eager import EagerAttack
from keras_esq.attacks.fab import FAB
from keras_esq.attacks.logits import check_model
from keras_esq.attacks.norms import Norm, get_norm
from keras_esq.attacks.oracle import Oracle
from keras_esq.attacks.result import AttackResult
from keras_esq.attacks.square import Square
from keras_esq.attacks.temperature import LARGEST_LEAD, Temperature, check_temperature, median_lead

_VERSIONS = ("standard", "rand")


@dataclass(frozen=True, kw_only=True, eq=False)
class AutoAttack(EagerAttack):
    """The standard ensemble, for a robustness that others can compare with; each attack gets what the former left.

    "standard": APGD on cross-entropy; targeted APGD on the difference-of-logits ratio; targeted FAB; Square. The first
    three take 100 steps, no restarts, and 9 target classes (all wrong ones if there are fewer); Square 5000 queries.
    With 3 classes, where the targeted ratio is not defined, its place is taken by the untargeted one; with 2 by the
    margin of the logits. "rand", for networks that are random in inference: APGD on cross-entropy and on the ratio,
    with 20 passes per gradient.

    Takes a tf_keras model, as three of its attacks need gradients.

    Args:
        version: "standard" or "rand". Default "standard".
        eps: radius of the ball in input units. Default 8/255.
        norm: "linf" or "l2". Default "linf".
        steps: of APGD and FAB. Default 100, the paper's; only with the defaults is the result "AutoAttack".
        query_budget: of Square. Default 5000, the paper's.
        temperature: of the gradient attacks, as `WhiteBoxAttack`. Default None: none, as published, except on networks
            whose median lead of the largest logit is above 50, where the cross-entropy has no gradient left in
            float32: there "auto". 1.0 for none whatever the network.
        Others: bounds, seed as `Attack`.

    Raises:
        ValueError: also for targeted=True: the ensemble is untargeted.

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", 2020 (arXiv:2003.01690).
    """

    version: Literal["standard", "rand"] = "standard"
    eps: float = 8 / 255
    norm: Norm = "linf"
    steps: int = 100
    query_budget: int = 5000
    temperature: Temperature = None

    counts_queries: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version not in _VERSIONS:
            raise ValueError(
                f"Expected version 'standard' or 'rand'. Received: {self.version!r}. "
                f"{near_matches(str(self.version), _VERSIONS)}"
            )
        if self.targeted:
            raise ValueError("Expected targeted=False, as AutoAttack is untargeted. Use APGD(targeted=True).")
        self._set("eps", check_positive("eps", self.eps))
        self._set("norm", get_norm(self.norm))
        check_count("steps", self.steps)
        check_count("query_budget", self.query_budget, minimum=2)
        self._set("temperature", check_temperature(self.temperature))

    def stages(self, num_classes: int) -> dict[str, Attack]:
        """The attacks {name: attack} in their order, for a model of so many classes."""
        ball: dict[str, Any] = {"eps": self.eps, "norm": self.norm, "bounds": self.bounds, "seed": self.seed}
        white: dict[str, Any] = {**ball, "steps": self.steps, "temperature": self.temperature}
        ratio = "dlr" if num_classes >= 3 else "margin"
        if self.version == "rand":
            return {
                "apgd-ce": APGD(loss="ce", gradient_samples=20, **white),
                f"apgd-{ratio}": APGD(loss=ratio, gradient_samples=20, **white),
            }
        loss = "targeted-dlr" if num_classes >= 4 else ratio
        return {
            "apgd-ce": APGD(loss="ce", **white),
            f"apgd-{loss}": APGD(loss=loss, **white),
            "fab": FAB(**white),
            "square": Square(query_budget=self.query_budget, rescale_schedule=False, **ball),
        }

    def check_target(self, model: Any) -> None:
        """See `EagerAttack.check_target`."""
        check_model(model)

    def attack_right(
        self, model: Any, oracle: Oracle, x: np.ndarray, labels: np.ndarray, scores: np.ndarray, batch_size: int
    ) -> AttackResult:
        """See `EagerAttack.attack_right`."""
        x_adv, success = x.copy(), np.zeros(len(x), bool)
        seed = self._call_seed()
        saturated = self.temperature is None and median_lead(scores) > LARGEST_LEAD
        ensemble = dataclasses.replace(self, temperature="auto") if saturated else self
        for number, attack in enumerate(ensemble.stages(scores.shape[1]).values()):
            left = np.flatnonzero(~success)
            if not len(left):
                break
            seeded = dataclasses.replace(attack, seed=(seed + number) % 2**31)
            found = seeded.run(model, x[left], labels[left], batch_size=batch_size)
            # Where nothing works the first attack's image stays: APGD's of highest loss.
            take = found.success if number else np.ones(len(left), bool)
            x_adv[left[take]], success[left] = found.x_adv[take], found.success
        return AttackResult(x_adv=x_adv, success=success)
