"""Which attacks an evaluation runs: named sets, and names for the attacks of a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras_esq._checks import check_bounds, check_positive, near_matches
from keras_esq.attacks import (
    DDN,
    FGSM,
    PGD,
    Attack,
    AutoAttack,
    Boundary,
    CarliniWagner,
    EagerAttack,
    NAttack,
    Square,
    Transfer,
)
from keras_esq.attacks.norms import Norm, get_norm
from keras_esq.attacks.temperature import Temperature, check_temperature
from keras_esq.evaluation.targets import Target
from keras_esq.keras3 import model_at_the_door

# Rows of a report that are no attack.
CLEAN, WORST_CASE = "clean", "worst case"

# A set of images rather than attacks, see `corruptions`; and its row of the mean.
CORRUPTION_SET, MEAN_CORRUPTION = "corruptions", "mean corruption"

# Radii as shares of the range of pixel values: [ESQ]'s for either norm.
_EPS: dict[Norm, float] = {"linf": 8 / 255, "l2": 1.0}
_Settings = dict[str, Any]


def _quick(ball: _Settings, white: _Settings) -> dict[str, Attack]:
    # PGD a little stronger than in training (20 steps), and with restarts, as a single run overstates robustness.
    return {
        "fgsm": FGSM(**ball, **white),
        "pgd": PGD(step_size=ball["eps"] / 4, steps=20, restarts=5, **ball, **white),
    }


def _paper(ball: _Settings, white: _Settings) -> dict[str, Attack]:
    bounds = ball["bounds"]
    span = bounds[1] - bounds[0]
    box, l2 = {"bounds": bounds}, {"eps": _EPS["l2"] * span, "bounds": bounds}
    return {
        "fgsm": FGSM(eps=16 / 255 * span, **box, **white),
        "pgd": PGD(eps=8 / 255 * span, step_size=2 / 255 * span, steps=20, restarts=5, **box, **white),
        "ddn": DDN(steps=100, **l2, **white),
        # With [ESQ]'s 20 steps, even at a rate of 0.1, it left 31 % of an adversarially trained network where these
        # settings leave 9 %: too weak a test.
        "cw": CarliniWagner(steps=100, learning_rate=0.05, initial_const=1.0, **l2, **white),
        "boundary": Boundary(**l2),
        "nattack": NAttack(norm="l2", **l2),
    }


def _autoattack(ball: _Settings, white: _Settings) -> dict[str, Attack]:
    return {"autoattack": AutoAttack(**ball, **white)}


def _blackbox(ball: _Settings, white: _Settings) -> dict[str, Attack]:
    attacks: dict[str, Attack] = {"square": Square(**ball), "nattack": NAttack(**ball)}
    if ball["norm"] == "l2":  # the only norm that it knows
        attacks["boundary"] = Boundary(eps=ball["eps"], bounds=ball["bounds"])
    return attacks


ATTACK_SETS: dict[str, Callable[[_Settings, _Settings], dict[str, Attack]]] = {
    "quick": _quick,
    "paper": _paper,
    "autoattack": _autoattack,
    "blackbox": _blackbox,
}


def attack_set(
    name: str,
    *,
    eps: float | None = None,
    norm: Norm | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    temperature: Temperature = None,
) -> dict[str, Attack]:
    """The attacks {name: attack} of a named set.

    "quick": FGSM, and PGD of 20 steps with 5 restarts.
    "paper": [ESQ]'s, each with its own norm: FGSM at 16/255, PGD at 8/255 of 20 steps with 5 restarts; and in L2 within
        1.0 DDN of 100 steps, Carlini-Wagner of 100 ([ESQ]: 20, too few), Boundary of 5000 questions, NAttack of 20,000.
    "autoattack": the standard ensemble.
    "blackbox": Square and NAttack, in L2 Boundary as well; for callables and .tflite files.

    Args:
        name: of the set.
        eps: radius in input units. Default 8/255 (L-inf) or 1.0 (L2) of the range. PGD's step is a quarter of it.
        norm: "linf" or "l2". Default "linf".
        bounds: lowest and highest valid value of x.
        temperature: of the gradient attacks, see `WhiteBoxAttack`; "auto" where `masking_audit` finds large logits.

    Raises:
        ValueError: for an unknown name, with near matches; for eps or norm with "paper", which mixes norms.
    """
    if name == CORRUPTION_SET:
        raise ValueError(
            f"Expected the name of a set of attacks. Received: {name!r}, which only evaluate_robustness knows: no "
            "attack makes them. Use keras_esq.evaluation.corrupt(x, name, severity=...) for the images themselves."
        )
    if name not in ATTACK_SETS:
        known = near_matches(name, [*ATTACK_SETS, CORRUPTION_SET])
        raise ValueError(f"Expected the name of an attack set. Received: {name!r}. {known}")
    if name == "paper" and (eps is not None or norm is not None):
        raise ValueError(
            f"Expected no eps and no norm for 'paper', whose attacks have norms and radii of their own. Received: "
            f"eps={eps!r}, norm={norm!r}. Use another set, or pass the attacks themselves."
        )
    low, high = check_bounds(bounds)
    norm = "linf" if norm is None else get_norm(norm)
    eps = _EPS[norm] * (high - low) if eps is None else check_positive("eps", eps)
    ball = {"eps": eps, "norm": norm, "bounds": (low, high)}
    return ATTACK_SETS[name](ball, {"temperature": check_temperature(temperature)})


def get_attacks(attacks: Any, **settings: Any) -> dict[str, Attack]:
    """The attacks {name: attack} behind a set's name, an attack, a list or a dict of attacks.

    Attacks of a list are named by their class in lower case, the second of a kind "pgd-2" and so on.

    Args:
        attacks: see above.
        settings: keywords of `attack_set`, for named sets only; None counts as not given.

    Raises:
        TypeError: for anything that is no attack.
        ValueError: for an unknown set, an empty list, a reserved name, a targeted attack, or settings without a set.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    if isinstance(attacks, str):
        return attack_set(attacks, **settings)
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
    if settings:
        raise ValueError(
            f"Expected {', '.join(settings)} only with a named set such as attacks='quick'. Received attacks with "
            f"settings of their own: {', '.join(map(repr, named))}. Set it in each of them."
        )
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


def for_target(named: Mapping[str, Attack], target: Target, source: Any = None) -> dict[str, Attack]:
    """The attacks that can be run on `target`: all on a tf_keras model; on anything else those without gradients.

    On what has no gradients AutoAttack becomes its part that needs none, Square; and with a `source` every attack by
    gradient is made against that and its images tried on the target ("name from source"). On a Keras 3 model that could
    not be translated it does not become Square unasked: that would be a weaker test than its translation gets.

    Args:
        named: {name: attack}.
        target: what is evaluated.
        source: a Keras model that resembles the target, such as the one that a file was converted from; or None.

    Raises:
        TypeError: before anything runs, if an attack needs gradients and there is no source.
        ValueError: for a source where the target has gradients of its own, or of Keras 3 that can't be translated.
    """
    if target.has_gradients:
        if source is not None:
            raise ValueError(
                f"Expected no source for {target.name!r}, a Keras model, which is attacked by its own gradients. "
                "Use attacks=[Transfer(source_model=..., attack=...)] to try another model's images on it."
            )
        return dict(named)
    source = model_at_the_door(source)
    alone = source is None and bool(target.untranslated)
    usable: dict[str, Attack] = {}
    for name, attack in named.items():
        if not _needs_gradients(attack):
            usable[name] = attack
            continue
        if source is not None:
            usable[f"{name} from source"] = Transfer(source_model=source, attack=attack)
        if isinstance(attack, AutoAttack) and attack.version == "standard" and not alone:
            usable["square"] = attack.stages(_MANY_CLASSES)["square"]
        elif source is None:
            usable[name] = attack
    check_usable(usable, target)
    return usable


# Square is in the ensemble whatever the number of classes.
_MANY_CLASSES = 10


def check_usable(named: Mapping[str, Attack], target: Target) -> None:
    """Raise TypeError, before anything runs, if an attack needs gradients that the target does not have."""
    blind = [] if target.has_gradients else [name for name, attack in named.items() if _needs_gradients(attack)]
    if blind and target.untranslated:
        raise TypeError(
            f"Expected attacks without gradients, such as attacks='blackbox', as the Keras 3 model {target.name!r} was "
            f"not translated by esq.from_keras3(model). Received: {', '.join(map(repr, blind))}. Leave these out, or "
            f"pass the translation. The reason: {target.untranslated}"
        )
    if blind:
        raise TypeError(
            f"Expected attacks without gradients, as {target.name!r} ({type(target.model).__name__}) is no tf_keras "
            f"model: Square, NAttack, Boundary and Transfer work, or attacks='blackbox'. Received: "
            f"{', '.join(map(repr, blind))}. Leave these out, or in evaluate_robustness pass source=, the tf_keras "
            "model behind it."
        )


def _needs_gradients(attack: Attack) -> bool:
    # AutoAttack runs step by step like a black-box attack, but three of its parts need gradients.
    return not isinstance(attack, EagerAttack) or isinstance(attack, AutoAttack)
