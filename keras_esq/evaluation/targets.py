"""What can be evaluated: the one door for targets of every kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.attacks.base import HIDDEN_SOFTMAX, looks_like_probabilities
from keras_esq.attacks.logits import input_shape_of, logits_fn


@dataclass(frozen=True)
class Target:
    """A classifier under evaluation.

    Args:
        model: what attacks are called with.
        name: how reports call it.
        input_shape: with the batch axis first; None if unknown.
    """

    model: keras.Model
    name: str
    input_shape: tuple[int | None, ...] | None

    def logits(self, x: np.ndarray, batch_size: int) -> np.ndarray:
        """Class logits (n, k) of images (n, ...), both float32.

        Raises:
            ValueError: if the target returns NaN, infinity, or probabilities whose softmax can't be seen.
        """
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
        return logits


def get_target(target: Any) -> Target:
    """The Target behind what the user passed.

    Raises:
        TypeError: for anything but a tf_keras model.
    """
    # Converted files and plain callables find their place here.
    if isinstance(target, keras.Model):
        return Target(target, target.name, input_shape_of(target))
    raise TypeError(
        "Expected a tf_keras.Model (Keras 2: float, quantized or ErrorSilencedModel). "
        f"Received: {type(target).__module__}.{type(target).__name__}."
    )
