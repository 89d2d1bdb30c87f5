"""The template of every objective: what one training step does around the loss that differs."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from keras_esq._checks import near_matches
from keras_esq._keras import keras
from keras_esq.training.pairing import LogitPairing
from keras_esq.training.step import Result, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(abc.ABC):
    """What a training minimizes; settings only.

    A new one is a `@dataclass(frozen=True, kw_only=True)` with its settings as fields, their checks in `__post_init__`
    and its loss in `loss`.
    """

    # Whether a step makes x_adv; whether it has a regularizer, which WarmUp ramps; whether that is the model's
    # `pairing`, and what that is of a model which is given none; whether it compares class probabilities; whether it
    # can train with `weight_perturbation`.
    attacks: ClassVar[bool] = True
    regularizes: ClassVar[bool] = True
    pairs: ClassVar[bool] = False
    default_pairing: ClassVar[LogitPairing] = LogitPairing()
    needs_classes: ClassVar[bool] = False
    perturbs_weights: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # A model saved with an objective, the user's own included, must find its class again.
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable(package=cls.__module__.split(".")[0])(cls)

    @abc.abstractmethod
    def loss(self, step: Step, x_adv: Any) -> Result:
        """The loss of one batch; graph code, run under the gradient tape.

        Args:
            step: batch, network and what is built on them.
            x_adv: adversarial images (n, ...), a constant to the gradient; None unless `attacks`.
        """

    def train(self, step: Step) -> dict[str, Any]:
        """One step: partition, x_adv, loss, update. Returns the logs."""
        with step.partition():
            x_adv = self.perturb(step) if self.attacks else None
            with step.perturbed_weights(lambda: self.loss(step, x_adv).loss), tf.GradientTape() as tape:
                result = self.loss(step, x_adv)
            # With the weights back where they were: constraints and averages of the optimizer are about these.
            step.update(result.loss, tape)
            return step.logs(result)

    def perturb(self, step: Step) -> Any:
        """x_adv. Default: by the training attack as it is."""
        return step.perturb()

    def check(self, network: Any, head: str, units: int) -> None:
        """Raise ValueError for a network that this objective can't train; called by `compile`.

        Args:
            network: what is trained.
            head: what the network ends in: "softmax", "sigmoid" or "logits".
            units: number of its outputs.
        """
        if self.needs_classes and head == "sigmoid" and units > 1:
            raise ValueError(
                f"Expected a network whose classes exclude each other, for objective {type(self).__name__}, which "
                f"compares their probabilities: softmax, logits or one sigmoid unit. Received {units} sigmoid units. "
                "End it in a softmax, or use objective='pairing'."
            )

    def ready(self, attack: Any) -> None:  # noqa: B027 (nothing to check by default)
        """Raise ValueError if a training can't start, `attack` being the model's; called by `fit`."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Objective:
        """The objective that `get_config` describes."""
        return cls(**config)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen; this is for __post_init__


def check_choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    """`value` if it is one of `known`, else ValueError."""
    if value not in known:
        raise ValueError(f"Expected {name} out of {list(known)}. Received {value!r}. {near_matches(str(value), known)}")
    return value
