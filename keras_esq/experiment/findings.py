"""The paper's findings, and whether they held in a run."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import Any

from keras_esq.experiment import paper, roles
from keras_esq.experiment.recipe import Recipe
from keras_esq.experiment.results import Results, Share
from keras_esq.experiment.tables import transferred

HELD, NOT_HELD, OPEN = "held", "did not hold", "undecided"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One finding on one pair of models.

    Attributes:
        claim: the paper's, in words.
        verdict: "held", "did not hold" or "undecided", where the 95 % intervals overlap.
        numbers: by which it was judged.
        paper: what the paper says, if our copy does.
    """

    claim: str
    verdict: str
    numbers: str
    paper: str = ""


def judge(results: Results) -> list[Finding]:
    """All findings that the results suffice for; none on validation images, by which recipes are chosen.

    Robustness is the share of images that stand every white-box attack in L-inf. Two shares, or two means of error
    amplification, differ if their 95 % intervals don't overlap.
    """
    if results.config.evaluation.on != "test":
        return []
    models = [recipe for recipe in results.having("attacks") if results.worst(recipe.name)]
    vanilla, logits, adversarial, inside = (
        [recipe for recipe in models if role(recipe)]
        for role in (roles.is_vanilla, roles.pairs_logits, roles.is_adversarial, roles.pairs_activations)
    )
    robust = {recipe.name for recipe in models if roles.is_float(recipe) and recipe.objective != "natural"}
    found = [_destroyed(results, one) for one in vanilla if one.source in robust]
    for one in logits:
        found += [_better(results, one, other, *_PAIRING) for other in roles.siblings(one, vanilla)]
    found += _amplification(results, [one for one in (*vanilla, *logits) if one.source in robust])
    for one in logits:
        found += [_better(results, one, other, *_ADVERSARIAL) for other in roles.siblings(one, adversarial)]
        found += [_better(results, one, other, *_LOGITS) for other in roles.siblings(one, inside)]
    return [*found, *_black_box(results, models)]


_PAIRING = ("Pairing restores the robustness that vanilla quantization takes.", paper.CLAIMS["pairing"])
_ADVERSARIAL = ("Pairing is better than adversarial training while quantizing.", paper.CLAIMS["adversarial"])
_LOGITS = ("Pairing the logits is at least as good as pairing activations.", "")


def _overlap(one: Share, other: Share) -> bool:
    return one.interval[0] <= other.interval[1] and other.interval[0] <= one.interval[1]


def _destroyed(results: Results, recipe: Recipe) -> Finding:
    after, before = _worst(results, recipe.name), _worst(results, recipe.source)
    return Finding(
        "Vanilla quantization destroys robustness (less than half is left).",
        HELD if after.mean < before.mean / 2 else NOT_HELD,
        f"{recipe.name} {after} % after {recipe.source} {before} %",
        paper.CLAIMS["vanilla"],
    )


def _worst(results: Results, name: str) -> Share:
    share = results.worst(name)
    if share is None:
        raise ValueError(f"Expected white-box attacks on {name!r}. It has none.")
    return share


def _better(results: Results, recipe: Recipe, other: Recipe, claim: str, said: str) -> Finding:
    ours, theirs = _worst(results, recipe.name), _worst(results, other.name)
    verdict = OPEN if _overlap(ours, theirs) else HELD if ours.mean > theirs.mean else NOT_HELD
    if claim == _LOGITS[0] and ours.mean >= theirs.mean:
        verdict = HELD  # "at least as good"
    numbers = f"{recipe.name} {ours} %, {other.name} {theirs} %"
    source = results.worst(recipe.source)
    if source is not None and source.mean > 0 and claim == _PAIRING[0]:
        numbers += f"; {ours.mean / source.mean:.2f} of {recipe.source}'s {source} %"
    clean = results.clean(recipe.name), results.clean(other.name)
    return Finding(claim, verdict, f"{numbers} (clean {clean[0]} %, {clean[1]} %)", said)


def _at_logits(results: Results, name: str) -> tuple[float, float] | None:
    """Mean of D at the logits over images and seeds, and half of its 95 % interval."""
    found = list(results.of(name, "amplification").values())
    if not found:
        return None
    images = sum(one["n"] - one["undefined"]["logits"] for one in found)
    std = math.sqrt(statistics.mean(one["std"]["logits"] ** 2 for one in found))
    return statistics.mean(one["mean"]["logits"] for one in found), 1.96 * std / math.sqrt(max(images, 1))


def _amplification(results: Results, models: list[Recipe]) -> list[Finding]:
    found = []
    for recipe in models:
        measured = _at_logits(results, recipe.name), _at_logits(results, recipe.source)
        if measured[0] is None or measured[1] is None:
            continue
        (ours, half), (source, other_half) = measured[0], measured[1]
        if roles.pairs_logits(recipe):
            claim = "Pairing silences error amplification: at the logits it is not above the float network's."
            verdict = HELD if ours <= source else OPEN if ours - half <= source + other_half else NOT_HELD
        else:
            claim = "Vanilla quantization amplifies errors: at the logits more than the float network."
            verdict = OPEN if abs(ours - source) <= half + other_half else HELD if ours > source else NOT_HELD
        numbers = f"D at the logits: {recipe.name} {ours:.3f}, {recipe.source} {source:.3f} ({ours / source:.1f} times)"
        found.append(Finding(claim, verdict, numbers, paper.CLAIMS["amplification"]))
    return found


def _black_box(results: Results, models: list[Recipe]) -> list[Finding]:
    """A black box that beats the white box would say that the white-box attacks fail: masked gradients."""
    found = []
    claim = "White-box attacks are stronger than black-box ones (else gradients are masked)."
    judges: tuple[Callable[[Results, str], tuple[str, Share, str, Share] | None], ...] = (_transfers, _queries)
    for judge_one in judges:
        lines, failed = [], []
        for recipe in models:
            pair = judge_one(results, recipe.name)
            if pair is None:
                continue
            black, black_share, white, white_share = pair
            lines.append((black_share.mean - white_share.mean, recipe.name, black, black_share, white, white_share))
            if black_share.interval[1] < white_share.interval[0]:
                failed.append(recipe.name)
        if lines:
            _, name, black, black_share, white, white_share = min(lines, key=lambda line: line[0])
            numbers = f"nearest on {name}: {black} leaves {black_share} %, {white} {white_share} %"
            if failed:
                numbers += f"; the black box wins on {', '.join(failed)}"
            found.append(Finding(claim, NOT_HELD if failed else HELD, numbers))
    return found


def _transfers(results: Results, name: str) -> tuple[str, Share, str, Share] | None:
    white = results.worst(name)
    shares: list[tuple[str, Any]] = [
        (f"transfer from {recipe.name}", transferred(results, recipe.name, name, "accuracy"))
        for recipe in results.having("transfer")
    ]
    measured = [(label, share) for label, share in shares if share is not None]
    if white is None or not measured:
        return None
    label, share = min(measured, key=lambda one: one[1].mean)
    return label, share, "the worst white-box attack", white


def _queries(results: Results, name: str) -> tuple[str, Share, str, Share] | None:
    """Boundary and N-Attack against the L2 attacks on the same images, if they were run at the same radius."""
    kept = list(results.of(name, "blackbox").values())
    radii = {str(one.get("eps")) for one in results.config.evaluation.attacks.values() if "eps" in one}
    if not kept or any(one.get("white box") is None for one in kept):
        return None
    white = Share(tuple((one["white box"], one["n"]) for one in kept))
    pairs = []
    for label in ("Boundary", "N-Attack"):
        for place, eps in enumerate(kept[0]["eps"]):
            if str(eps) in radii or str(float(eps)) in radii:
                share = Share(tuple((one[label][place], one["n"]) for one in kept))
                pairs.append((f"{label} within L2 {eps:g}", share))
    if not pairs:
        return None
    label, share = min(pairs, key=lambda one: one[1].mean)
    return label, share, "the worst white-box attack in L2", white
