"""Does a model only look robust because its gradients tell attacks nothing?"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from keras_esq._checks import check_bounds, check_count, check_images, check_labels, check_positive
from keras_esq._keras import keras
from keras_esq.attacks import APGD, FGSM, PGD, Attack, Square, Transfer
from keras_esq.attacks.logits import check_model, input_shape_of
from keras_esq.attacks.norms import Norm, get_norm
from keras_esq.attacks.temperature import LARGEST_LEAD
from keras_esq.evaluation.gradients import GradientProbe, probe_gradients
from keras_esq.evaluation.intervals import wilson_interval
from keras_esq.evaluation.masking_report import MaskingAudit, MaskingCheck
from keras_esq.evaluation.noise import RandomNoise
from keras_esq.evaluation.report import RobustnessReport
from keras_esq.evaluation.robustness import evaluate_robustness
from keras_esq.evaluation.sets import CLEAN
from keras_esq.evaluation.targets import get_target

# A check of samples fails when it is 97.5 % sure (Wilson's lower bound) that more than this share behaves oddly: what
# the luck of random starts explains on honest networks.
_LIMIT = 0.02
# Attacks that differ in loss, steps or restarts find somewhat different samples on honest networks too: up to 8 % in
# our measurements. Where Adversarial Logit Pairing was broken it was 27 %.
_LOOSE_LIMIT = 0.1
_WHITE = ("pgd", "pgd long", "apgd ce", "apgd margin")


def masking_audit(
    model: keras.Model,
    x: Any,
    y: Any,
    eps: float = 8 / 255,
    *,
    norm: Norm = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
    twin: Any = None,
    steps: int = 20,
    restarts: int = 3,
    query_budget: int = 1000,
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> MaskingAudit:
    """Look for masked gradients: named checks, each with its figure, its limit and whether it passed.

    Shares of the samples that are right before any attack; one fails if Wilson's lower bound of it exceeds the limit:

    - "vanishing gradients": the input gradient of the cross-entropy is exactly 0.
    - "robust at large eps": still right where eps is half the range, so that any image can turn into one grey.
    - "random noise beats white-box", "black-box beats white-box" (Square) and, with a twin, "twin's images beat
      white-box": fooled by that and by no attack by gradient.
    - "one-step beats iterative": fooled by FGSM, not by PGD.
    - "more steps are weaker": fooled by PGD, not by PGD of 5 times the steps, each of eps / 10.
    - "longer attack finds more": fooled by 5 times the steps or restarts only, so that the usual figure is far off.
    - "losses disagree": fooled by APGD on cross-entropy or on the margin of the logits, not by both.

    And "logit scale": the median lead of the largest logit. If there is no gradient at all, attacks by gradient count
    as finding nothing and the last four shares are left out; the black-box one is left out if x is no image.

    Args:
        model: a tf_keras classifier, as `evaluate_robustness` takes it.
        x: images (n, ...) in `bounds`; 100 or more, with fewer only plain masking is seen.
        y: true class ids (n,) or (n, 1), or one-hot rows (n, k).
        eps: radius of the ball in input units, that of the claim to be tested. Default 8/255.
        norm: "linf" or "l2". Default "linf".
        bounds: lowest and highest valid value of x. Default (0, 1).
        twin: a tf_keras model of the same task with honest gradients, such as the float original; None leaves its check
            out.
        steps: of PGD, whose step is eps / 4; APGD and the long PGD take 5 times as many. Default 20, [ESQ]'s test.
        restarts: of APGD. Default 3.
        query_budget: of Square, questions per sample. Default 1000.
        batch_size, seed, progress, cache: as for `evaluate_robustness`.

    Raises:
        TypeError: if model or twin is no tf_keras model; else as `evaluate_robustness`.
        ValueError: if the model gets no sample right, so that nothing can be said; else as `evaluate_robustness`.

    Reference: Athalye et al., "Obfuscated Gradients Give a False Sense of Security", 2018 (arXiv:1802.00420); Carlini
    et al., "On Evaluating Adversarial Robustness", 2019 (arXiv:1902.06705); Engstrom et al., "Evaluating and
    Understanding the Robustness of Adversarial Logit Pairing", 2018 (arXiv:1807.10272); Gupta and Ajanthan, 2020
    (arXiv:2003.13511), on the scale of the logits.
    """
    check_model(model)
    if twin is not None:
        check_model(twin)
    eps, norm, bounds = check_positive("eps", eps), get_norm(norm), check_bounds(bounds)
    check_count("steps", steps)
    images = check_images(x, bounds, input_shape_of(model))
    classes = get_target(model).logits(images[:1], 1).shape[1]
    probe = probe_gradients(model, images, check_labels(y, classes, len(images)), batch_size)
    attacks = _attacks(images, eps, norm, bounds, steps, restarts, query_budget)
    if twin is not None:
        attacks["twin"] = Transfer(source_model=twin, attack=attacks["apgd margin"])
    if not probe.exists:
        attacks = {name: attack for name, attack in attacks.items() if name in ("square", "noise", "twin")}
    report = evaluate_robustness(
        model, images, y, attacks=attacks, batch_size=batch_size, seed=seed, progress=progress, cache=cache
    )
    if not report.robust[CLEAN].any():
        raise ValueError(
            f"Expected a model that gets some of the samples right. {report.target!r} is wrong on all {len(images)}. "
            "Check that x is scaled as in training and that y belongs to x."
        )
    return MaskingAudit(
        target=report.target,
        n=len(images),
        eps=eps,
        norm=norm,
        checks=tuple(_checks(report, probe)),
        accuracy={row.name: row.accuracy for row in report.rows[:-1]},
    )


def _attacks(
    x: np.ndarray, eps: float, norm: Norm, bounds: tuple[float, float], steps: int, restarts: int, query_budget: int
) -> dict[str, Attack]:
    ball: dict[str, Any] = {"eps": eps, "norm": norm, "bounds": bounds}
    # Within it lies an image of one grey, which has no class.
    half = (bounds[1] - bounds[0]) / 2 * (1.0 if norm == "linf" else float(np.sqrt(x[0].size)))
    long: dict[str, Any] = {**ball, "steps": 5 * steps, "restarts": restarts}
    far = {**long, "eps": max(half, eps)}
    attacks: dict[str, Attack] = {
        "fgsm": FGSM(**ball),
        "pgd": PGD(step_size=eps / 4, steps=steps, **ball),
        # At eps / 4 PGD swings between the same corners: 20 and 400 steps fooled the same samples.
        "pgd long": PGD(step_size=eps / 10, steps=5 * steps, **ball),
        "apgd ce": APGD(loss="ce", **long),
        "apgd margin": APGD(loss="margin", **long),
        "ce at large eps": APGD(loss="ce", **far),
        "margin at large eps": APGD(loss="margin", **far),
        "noise": RandomNoise(**ball),
    }
    if x.ndim in (3, 4):  # Square knows images only
        attacks["square"] = Square(query_budget=query_budget, **ball)
    return attacks


def _checks(report: RobustnessReport, probe: GradientProbe) -> list[MaskingCheck]:
    """All checks from the masks of the report."""
    right = report.robust[CLEAN]
    n = int(right.sum())

    def fooled(*names: str) -> np.ndarray:
        """Samples (n,) that are right and that any of these attacks fools; those that were not run fool none."""
        masks = [right & ~report.robust[name] for name in names if name in report.robust]
        return np.logical_or.reduce(masks) if masks else np.zeros(len(right), bool)

    def share(name: str, odd: np.ndarray, limit: float, detail: str) -> MaskingCheck:
        count = int(odd.sum())
        passed = wilson_interval(count, n)[0] <= limit
        return MaskingCheck(name=name, figure=count / n, limit=limit, passed=passed, detail=f"{detail}: {count} of {n}")

    white = fooled(*_WHITE)
    zero, lead = right & probe.zero, float(np.median(probe.lead[right]))
    large = right & ~fooled("ce at large eps", "margin at large eps", *_WHITE)
    checks = [
        share("vanishing gradients", zero, _LIMIT, probe.detail),
        MaskingCheck(
            name="logit scale",
            figure=lead,
            limit=LARGEST_LEAD,
            passed=lead <= LARGEST_LEAD,
            detail="median lead of the largest logit",
        ),
        share("robust at large eps", large, _LIMIT, "right where any image can turn grey"),
        share("random noise beats white-box", fooled("noise") & ~white, _LIMIT, "fooled by noise, not by gradient"),
    ]
    if "square" in report.robust:
        odd = fooled("square") & ~white
        checks.append(share("black-box beats white-box", odd, _LIMIT, "fooled by Square, not by gradient"))
    if "twin" in report.robust:
        odd = fooled("twin") & ~white
        checks.append(share("twin's images beat white-box", odd, _LIMIT, "fooled by the twin's, not by gradient"))
    if not probe.exists:
        return checks
    pgd, long = fooled("pgd"), fooled("pgd long")
    by_ce, by_margin = fooled("apgd ce"), fooled("apgd margin")
    more = (long | by_ce) & ~pgd
    checks += [
        share("one-step beats iterative", fooled("fgsm") & ~pgd, _LIMIT, "fooled by FGSM, not by PGD"),
        share("more steps are weaker", pgd & ~long, _LIMIT, "fooled by PGD, not by 5 x the steps"),
        share("longer attack finds more", more, _LOOSE_LIMIT, "fooled by more steps or restarts only"),
        share("losses disagree", by_ce ^ by_margin, _LOOSE_LIMIT, "fooled by cross-entropy or margin, not both"),
    ]
    return checks
