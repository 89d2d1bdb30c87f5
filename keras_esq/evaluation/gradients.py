"""What a network's input gradients look like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.attacks.logits import logits_fn
from keras_esq.attacks.losses import cross_entropy


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientProbe:
    """Input gradients of the cross-entropy, and the scale of the logits.

    Args:
        exists: whether there is a gradient at all.
        zero: (n,) bool, samples whose gradient is exactly 0 everywhere; all if there is none.
        zeros: share of exact zeros among all the gradient's elements, in [0, 1].
        lead: (n,), largest logit minus the second.
    """

    exists: bool
    zero: np.ndarray
    zeros: float
    lead: np.ndarray

    @property
    def detail(self) -> str:
        """In words, for a table."""
        if not self.exists:
            return "there is no gradient by the input (rounding on the way?)"
        return f"gradient exactly 0 ({100 * self.zeros:.0f} % of all its elements)"


def probe_gradients(model: keras.Model, x: np.ndarray, labels: np.ndarray, batch_size: int) -> GradientProbe:
    """Differentiate the cross-entropy of `labels` (n,) by the images `x` (n, ...)."""
    predict = logits_fn(model)
    zero, lead, zeros, exists = [], [], 0, True
    for start in range(0, len(x), batch_size):
        images = tf.constant(x[start : start + batch_size])
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = predict(images)
            loss = cross_entropy(tf.constant(labels[start : start + batch_size]), logits)
        gradient = tape.gradient(loss, images)
        top = tf.math.top_k(logits, k=2).values.numpy()
        lead.append(top[:, 0] - top[:, 1])
        exists = gradient is not None
        nothing = np.ones(images.shape, bool) if gradient is None else gradient.numpy() == 0
        zero.append(nothing.reshape(len(nothing), -1).all(axis=1))
        zeros += int(nothing.sum())
    return GradientProbe(
        exists=exists, zero=np.concatenate(zero), zeros=zeros / x.size, lead=np.concatenate(lead).astype(np.float64)
    )
