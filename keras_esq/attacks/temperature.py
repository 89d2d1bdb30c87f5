"""Logit temperature: attacks on networks whose logits are so large that gradients vanish."""

from __future__ import annotations

from typing import Literal

import numpy as np
import tensorflow as tf

from keras_esq._checks import check_positive
from keras_esq.attacks.logits import LogitsFn

Temperature = float | Literal["auto"] | None

# cross-entropy's gradient underflows at a lead of about 100 in float32; those of our tests lead by 2 to 7.
LARGEST_LEAD = 50.0


def check_temperature(temperature: Temperature) -> Temperature:
    """Return `temperature` if it is None, "auto" or a number > 0, else raise TypeError or ValueError."""
    if temperature is None:
        return None
    if isinstance(temperature, str):
        if temperature != "auto":
            raise ValueError(f"Expected temperature to be a number > 0, 'auto' or None. Received: {temperature!r}.")
        return temperature
    return check_positive("temperature", temperature, "Use 'auto', or None for none.")


def tempered(model_fn: LogitsFn, x: tf.Tensor, temperature: Temperature) -> LogitsFn:
    """`model_fn` with its logits divided by the temperature; the predicted class stays.

    Args:
        model_fn: x (n, ...) -> class logits (n, k).
        x: images (n, ...) on which "auto" is measured.
        temperature: a number > 0; "auto": the median over `x` of the largest logit's lead over the second, so that
            the lead becomes about 1; None: `model_fn` itself.

    Reference: Gupta and Ajanthan, "Improved Gradient based Adversarial Attacks for Quantized Networks", 2020
    (arXiv:2003.13511): large logits saturate the softmax, low-bit networks have them, and a scalar undoes it.
    """
    if temperature is None:
        return model_fn
    scale = auto_temperature(model_fn(x)) if temperature == "auto" else tf.constant(temperature, tf.float32)
    return lambda images: model_fn(images) / scale


def auto_temperature(logits: tf.Tensor) -> tf.Tensor:
    """Median lead of the largest logit over the second, scalar; 1 where all lead by nothing."""
    top = tf.math.top_k(logits, k=2).values
    lead = tf.sort(top[:, 0] - top[:, 1])
    median = lead[tf.shape(lead)[0] // 2]
    usable = tf.math.is_finite(median) & (median > 0)
    return tf.stop_gradient(tf.where(usable, median, tf.ones_like(median)))


def median_lead(scores: np.ndarray) -> float:
    """Median over the samples of the largest score's lead over the second, of scores (n, k)."""
    top = np.sort(scores, axis=1)[:, -2:]
    return float(np.median(top[:, 1] - top[:, 0]))
