"""What can be evaluated: the one door for targets of every kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.attacks.hidden import HIDDEN_SOFTMAX, check_unit, looks_like_probabilities
from keras_esq.attacks.logits import input_shape_of, logits_fn
from keras_esq.attacks.oracle import Oracle
from keras_esq.keras3 import is_keras3_model, model_at_the_door


@dataclass(frozen=True)
class Target:
    """A classifier under evaluation.

    Args:
        model: what attacks are called with: a tf_keras model or what else `Oracle` takes.
        name: how reports call it.
        input_shape: with the batch axis first; None if unknown.
        untranslated: of a Keras 3 model that has no tf-keras counterpart, why.
    """

    model: Any
    name: str
    input_shape: tuple[int | None, ...] | None
    untranslated: str = ""

    @property
    def has_gradients(self) -> bool:
        """Whether attacks by gradient can be tried: on tf_keras models only."""
        return isinstance(self.model, keras.Model)

    def logits(self, x: np.ndarray, batch_size: int) -> np.ndarray:
        """Class logits (n, k), or other scores of what is no tf_keras model, of images (n, ...); both float32.

        Raises:
            ValueError: if the target returns NaN, infinity, or probabilities whose softmax or sigmoid can't be seen; if
                what is no tf_keras model returns scores of a wrong shape.
        """
        if not self.has_gradients:
            return Oracle(self.model)(x)
        predict = logits_fn(self.model)
        parts = [predict(tf.constant(x[i : i + batch_size])).numpy() for i in range(0, len(x), batch_size)]
        logits = np.concatenate(parts)
        bad = ~np.isfinite(logits).all(axis=1)
        if bad.any():
            raise ValueError(
                f"Expected finite logits. {self.name!r} returned NaN or infinity for {bad.sum()} of {len(x)} images. "
                f"The first is image {int(np.argmax(bad))}. Check its weights, or train it again "
                "with a lower learning rate."
            )
        if looks_like_probabilities(tf.constant(logits)):
            raise ValueError(HIDDEN_SOFTMAX)
        check_unit(self.model, x, logits)
        return logits


def get_target(target: Any) -> Target:
    """The Target behind what the user passed; of a Keras 3 model that can be translated, its tf-keras counterpart.

    Raises:
        TypeError: for what is no classifier.
    """
    untranslated = ""
    if is_keras3_model(target):
        try:
            target = model_at_the_door(target)
        except (TypeError, ValueError) as error:  # attacks that need no gradients can do without
            untranslated = str(error)
    if isinstance(target, keras.Model):
        return Target(target, target.name, input_shape_of(target))
    oracle = Oracle(target)
    return Target(target, oracle.name, oracle.input_shape, untranslated)
