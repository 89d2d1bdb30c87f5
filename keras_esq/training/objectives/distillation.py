"""Robust distillation from a teacher."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from keras_esq._checks import check_fraction, check_positive
from keras_esq._keras import keras
from keras_esq.attacks.logits import input_shape_of, logits_fn
from keras_esq.keras3 import from_keras3, is_keras3_model
from keras_esq.quantize.graph import unwrap
from keras_esq.training.heads import trace_head
from keras_esq.training.objectives.base import Objective, check_choice
from keras_esq.training.objectives.divergence import check_climbing, climbing, kl_divergence
from keras_esq.training.objectives.trades import ATTACK_LOSSES
from keras_esq.training.step import Result, Step

# Temperature and alpha where none are given.
_DEFAULTS = {"ard": (30.0, 1.0), "rslad": (1.0, 5 / 6)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustDistillation(Objective):
    """Learn from a robust teacher, such as the float network that was quantized. Alias "distillation".

    "ard":   (1 - alpha) * loss(x) + alpha * t^2 * mean KL(T_t(x) || S_t(x_adv))
    "rslad": (1 - alpha) * mean KL(T(x) || S(x)) + alpha * mean KL(T(x) || S(x_adv)), without labels; with a
             temperature t both are those of S_t and T_t, times t^2

    loss is the compiled one, S_t and T_t the probabilities softmax(logits / t) of student and teacher. KL sums over the
    classes, as in the papers; their published code also divides it by the number of classes. "pairing_loss" in the logs
    is all but (1 - alpha) * loss(x).

    The teacher runs in inference mode and is not trained. It is not saved with the model: a loaded one predicts and
    converts as any other; to train it on, set `model.objective = RobustDistillation(teacher=..., ...)`.

    Args:
        teacher: tf-keras classifier (float, low-bit or ErrorSilencedModel) with the classes and the input of the
            student, or a Keras 3 one, which is translated.
        method: "ard" or "rslad". Default "rslad".
        temperature: t > 0. Default: 30 for "ard", 1 for "rslad", as in the papers.
        alpha: share of the term on x_adv, in [0, 1]. Default: 1 for "ard", 5/6 for "rslad", as in the papers.
        attack_loss: what the training attack climbs: "given", its own loss (cross-entropy is "ard"'s), or "kl",
            KL(T(x) || S(x_adv)), as in "rslad"'s paper. Default "given".

    Raises:
        TypeError, ValueError: for a teacher that is no model, settings out of range, and unknown names; in `compile`,
            for a teacher with other classes or inputs, or that is the network; when training begins, without a teacher.

    Reference: Goldblum et al., "Adversarially Robust Distillation", 2020 (arXiv:1905.09747); Zi et al., "Revisiting
    Adversarial Robustness Distillation: Robust Soft Labels Make Student Better", 2021 (arXiv:2108.07969).
    """

    needs_classes: ClassVar[bool] = True

    teacher: Any = dataclasses.field(repr=False)
    method: str = "rslad"
    temperature: Any = None  # None here and below: the method's own
    alpha: Any = None
    attack_loss: str = "given"

    def __post_init__(self) -> None:
        check_choice("method", self.method, tuple(_DEFAULTS))
        check_choice("attack_loss", self.attack_loss, ATTACK_LOSSES)
        temperature, alpha = _DEFAULTS[self.method]
        self._set("temperature", check_positive("temperature", _given(self.temperature, temperature)))
        self._set("alpha", check_fraction("alpha", _given(self.alpha, alpha)))
        if is_keras3_model(self.teacher):
            self._set("teacher", from_keras3(self.teacher))
        self._set("teacher", unwrap(self.teacher))
        if self.teacher is not None and not isinstance(self.teacher, keras.Model):
            raise TypeError(
                "Expected teacher as a trained tf_keras.Model or Keras 3 model. Received "
                f"{type(self.teacher).__module__}.{type(self.teacher).__name__}."
            )

    def check(self, network: Any, head: str, units: int) -> None:
        """See `Objective.check`."""
        super().check(network, head, units)
        if self.teacher is None:
            return
        name = repr(self.teacher.name)
        if {id(w) for w in self.teacher.weights} & {id(w) for w in network.weights}:
            raise ValueError(
                f"Expected a teacher with weights of its own. Received {name}, which shares weights with the network "
                "that is trained. Train a copy: esq.quantize_model makes one, or keras.models.clone_model."
            )
        classes, found = max(units, 2), max(trace_head(self.teacher)[1], 2)
        if found != classes:
            raise ValueError(f"Expected a teacher with the {classes} classes of the network. {name} has {found}.")
        shapes = [input_shape_of(model) for model in (network, self.teacher)]
        if None not in shapes and not tf.TensorShape(shapes[0]).is_compatible_with(shapes[1]):
            raise ValueError(
                f"Expected a teacher with the network's input shape {shapes[0]}. {name} takes {shapes[1]}."
            )

    def ready(self, attack: Any) -> None:
        """See `Objective.ready`."""
        if self.teacher is None:
            raise ValueError(
                "Expected a teacher to train on with. Received none: it is not saved with the model. Load it and set "
                "model.objective = esq.training.RobustDistillation(teacher=..., method=...)."
            )
        if self.attack_loss == "kl":
            check_climbing(attack, starts_at_random=False)

    def perturb(self, step: Step) -> Any:
        """See `Objective.perturb`."""
        if self.attack_loss == "given":
            return step.perturb()
        return step.perturb(climbing(step.attack, logits_fn(self.teacher)(step.x)))

    def loss(self, step: Step, x_adv: Any) -> Result:
        """See `Objective.loss`."""
        clean, adv = step.forward_pair(x_adv)
        target = self.target(step.x)
        scale = self.temperature**2  # the gradients stay what they are at any temperature
        term = self.alpha * scale * step.mean(kl_divergence(target, adv.class_logits, self.temperature))
        labels = 1 - self.alpha
        if self.method == "rslad":
            term += labels * scale * step.mean(kl_divergence(target, clean.class_logits, self.temperature))
            labels = 0.0
        term = step.ramped(term)
        loss = step.compiled_loss(clean.outputs, term, sample_weight=step.weighted(labels))
        return Result(loss, step.x, clean.outputs, term, adv.logits)

    def target(self, x: Any) -> Any:
        """The teacher's class logits (n, classes), a constant to the gradient."""
        return tf.stop_gradient(logits_fn(self.teacher)(x))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments without the teacher."""
        return {**super().get_config(), "teacher": None}


def _given(value: float | None, default: float) -> float:
    return default if value is None else value
