"""RobustHyperModel: from a float network to the space of its robust low-bit versions."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_esq._checks import check_nonnegative, check_positive, near_matches
from keras_esq._keras import keras
from keras_esq.attacks import PGD
from keras_esq.attacks.base import Attack
from keras_esq.attacks.gradient import IterativeAttack
from keras_esq.keras3 import from_keras3, is_keras3_model
from keras_esq.quantize import get_schedule, low_bit_weights
from keras_esq.training import ErrorSilencedModel, LogitPairing, QuantizationRatio
from keras_esq.training.objectives import OBJECTIVES
from keras_esq.training.pairing import check_distance
from keras_esq.tuning._keras_tuner import kt
from keras_esq.tuning.bits import check_bits, choose_bits, with_bits
from keras_esq.tuning.space import Range, check_setting, check_steps, choose


class RobustHyperModel(kt.HyperModel):
    """A keras-tuner hypermodel of error-silenced low-bit networks.

    Each of the settings marked (*) is one value, which is fixed, or a list of choices or a `Range`, which is searched.
    The names in the search space are "bits/..." (one a group of layers), "ratio_schedule", "pairing_weight",
    "pairing_distance", "attack_steps" and "learning_rate", besides those of `build_fn`.

    Args:
        build_fn: () or (hp) -> a float classifier of tf-keras or Keras 3; or such a classifier. Never changed: trials
            train copies, which begin with its weights. A function is called for each trial, after seeding.
        bits: (*) "binary", "ternary" or "float" for all layers, or a dict {layer name or glob: (*)}, read as the
            `weights` of `quantize_model`. Default: three groups, the first and the last layer with a kernel, which may
            stay float, and those between, "binary" or "ternary".
        ratio_schedule: (*) of `QuantizationRatio`. In each round of Hyperband it runs from its beginning to its end.
        pairing_weight, pairing_distance: (*) of `LogitPairing`, for objectives that pair.
        attack_steps: (*) steps of the training attack, if it has steps. Its step_size changes with them, so that it
            reaches as far: more steps are a finer attack, not a larger one.
        learning_rate: (*) of the optimizer.
        attack: the training attack, which sets eps, norm and bounds; default PGD(), eps 8/255.
        validation_attack: judges all trials alike. Default: `attack` with twice the steps.
        objective: of `ErrorSilencedModel`, by name; default "adversarial_pairing", as there.
        optimizer: a name such as "adam" or "sgd", or a function learning_rate -> optimizer of tf-keras or Keras 3.
        loss, metrics: of compile. "accuracy" among the metrics makes `val_accuracy`.
        quantize_options: further arguments of `quantize_model`, such as {"activation_bits": 8}.
        custom_objects: for Keras 3 models, as `esq.from_keras3` takes it.
        name: of the hypermodel.

    Raises:
        TypeError, ValueError: for a setting that can't be used, whichever of its values that is.
    """

    def __init__(
        self,
        build_fn: Any,
        *,
        bits: Any = None,
        ratio_schedule: Any = ("full", "uniform", "exponential"),
        pairing_weight: Any = Range(0.03, 3.0, log=True),  # noqa: B008 (frozen)
        pairing_distance: Any = ("squared_l2", "l2", "relative_l2"),
        attack_steps: Any = (3, 5, 10),
        learning_rate: Any = Range(3e-4, 1e-2, log=True),  # noqa: B008 (frozen)
        attack: Attack | None = None,
        validation_attack: Attack | None = None,
        objective: str = "adversarial_pairing",
        optimizer: str | Callable[[float], Any] = "adam",
        loss: Any = "sparse_categorical_crossentropy",
        metrics: Sequence[Any] = ("accuracy",),
        quantize_options: Mapping[str, Any] | None = None,
        custom_objects: dict[Any, Any] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if objective not in OBJECTIVES:
            raise ValueError(
                f"Expected an objective out of {list(OBJECTIVES)}. Received {objective!r}. "
                f"{near_matches(str(objective), OBJECTIVES)}"
            )
        self.build_fn = _as_build_fn(build_fn)
        self.bits = check_bits(bits)
        self.ratio_schedule = _check_schedules(ratio_schedule)
        self.pairing_weight = check_setting(
            "pairing_weight", pairing_weight, lambda value: check_nonnegative("pairing_weight", value)
        )
        self.pairing_distance = check_setting("pairing_distance", pairing_distance, check_distance)
        self.attack_steps = check_steps("attack_steps", attack_steps)
        self.learning_rate = check_setting(
            "learning_rate", learning_rate, lambda value: check_positive("learning_rate", value)
        )
        self.attack = _check_attack("attack", PGD() if attack is None else attack)
        self.validation_attack = _check_attack(
            "validation_attack", _stronger(self.attack) if validation_attack is None else validation_attack
        )
        self.objective = objective
        self.optimizer = optimizer
        self.loss, self.metrics = loss, list(metrics)
        self.quantize_options = dict(quantize_options or {})
        self.custom_objects = custom_objects

    def build(self, hp: Any) -> ErrorSilencedModel:
        """The compiled model of a trial.

        Args:
            hp: keras-tuner's HyperParameters, as `tuner.get_best_hyperparameters()` returns them.

        Raises:
            TypeError: if `build_fn` returns no Keras model.
            ValueError: as `quantize_model`.
        """
        network = self.build_fn(hp)
        if is_keras3_model(network):
            network = from_keras3(network, custom_objects=self.custom_objects)
        if not hasattr(network, "layers"):
            raise TypeError(
                f"Expected build_fn to return a Keras model. Received {type(network).__name__}. Does it end with a "
                "return statement?"
            )
        low_bit = with_bits(network, choose_bits(hp, network, self.bits), self.quantize_options)
        self._schedule(hp)
        model = ErrorSilencedModel(
            low_bit,
            attack=self._attack(hp),
            pairing=self._pairing(hp),
            objective=self.objective,
            validation_attack=self.validation_attack,
            custom_objects=self.custom_objects,
        )
        model.compile(self._optimizer(hp), self.loss, metrics=list(self.metrics))
        return model

    def fit_arguments(self, hp: Any, model: Any) -> dict[str, Any]:
        """What `model.fit` needs besides data and epochs: `callbacks`, with the QuantizationRatio of `hp`.

        With it the best settings can be trained longer than in the search:

            hp = tuner.get_best_hyperparameters()[0]
            model = hypermodel.build(hp)
            model.fit(x, y, epochs=100, **hypermodel.fit_arguments(hp, model))
        """
        schedule = self._schedule(hp)
        return {"callbacks": [QuantizationRatio(schedule)] if low_bit_weights(model) else []}

    def fit(self, hp: Any, model: Any, *args: Any, callbacks: Sequence[Any] = (), **kwargs: Any) -> Any:
        """Train the model of a trial: `model.fit` with `fit_arguments`. Called by the tuners."""
        own = self.fit_arguments(hp, model)["callbacks"]
        return model.fit(*args, callbacks=[*own, *callbacks], **kwargs)

    def _schedule(self, hp: Any) -> Any:
        return choose(hp, "ratio_schedule", self.ratio_schedule)

    def _pairing(self, hp: Any) -> LogitPairing | None:
        if not OBJECTIVES[self.objective].pairs:
            return None
        default = OBJECTIVES[self.objective].default_pairing
        return LogitPairing(
            weight=choose(hp, "pairing_weight", self.pairing_weight, default.weight),
            distance=choose(hp, "pairing_distance", self.pairing_distance, default.distance),
        )

    def _attack(self, hp: Any) -> Attack | None:
        if self.objective == "natural":
            return None
        if not isinstance(self.attack, IterativeAttack):
            return self.attack
        return with_steps(self.attack, choose(hp, "attack_steps", self.attack_steps, self.attack.steps))

    def _optimizer(self, hp: Any) -> Any:
        rate = choose(hp, "learning_rate", self.learning_rate, 3e-3)
        if callable(self.optimizer):
            return self.optimizer(rate)
        # Not get() of a dict, which makes one of Keras' legacy optimizers.
        default = keras.optimizers.get(self.optimizer)
        return type(default).from_config({**default.get_config(), "learning_rate": rate})


def with_steps(attack: IterativeAttack, steps: int) -> IterativeAttack:
    """`attack` with so many steps that together reach as far as its own."""
    return dataclasses.replace(attack, steps=steps, step_size=attack.step_size * attack.steps / steps)


def _stronger(attack: Any) -> Any:
    if not isinstance(attack, IterativeAttack):
        return attack
    return dataclasses.replace(attack, steps=2 * attack.steps)


def _check_attack(name: str, attack: Any) -> Any:
    if not isinstance(attack, Attack):
        raise TypeError(f"Expected {name} out of esq.attacks, such as esq.attacks.PGD(). Received {attack!r}.")
    return attack


def _check_schedules(setting: Any) -> Any:
    if isinstance(setting, list | tuple) and not all(isinstance(one, str) for one in setting):
        raise TypeError(
            "Expected choices of ratio_schedule to be names, as keras-tuner records them. Received "
            f"{setting!r}. A dict or a callable can be the one fixed schedule."
        )
    if isinstance(setting, Range):
        raise TypeError(f"Expected names of schedules for ratio_schedule. Received {setting!r}.")
    return check_setting("ratio_schedule", setting, get_schedule)


def _as_build_fn(build_fn: Any) -> Callable[[Any], Any]:
    """A function (hp) -> network out of what the user gave."""
    if hasattr(build_fn, "layers"):
        return lambda hp: build_fn
    if not callable(build_fn):
        raise TypeError(
            "Expected build_fn as a function () or (hp) -> Keras model, or such a model. Received "
            f"{build_fn!r} of type {type(build_fn).__name__}."
        )
    return (lambda hp: build_fn(hp)) if _takes_hp(build_fn) else (lambda hp: build_fn())


def _takes_hp(function: Callable[..., Any]) -> bool:
    """Whether it has a parameter called hp, or can't do without one. Others may have arguments with defaults."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins have none
        return False
    if "hp" in signature.parameters:
        return True
    try:
        signature.bind()
    except TypeError:
        return True
    return False
