"""Probabilities that would pass for logits: their softmax or sigmoid is out of sight."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.attacks.logits import has_bare_unit, head_kind, logits_fn

HIDDEN_SOFTMAX = (
    "Expected logits, or a softmax or sigmoid as the model's last operation. Received outputs that are probabilities, "
    "with the softmax out of sight (an average of softmaxes, or one inside a loaded SavedModel). Attacking through it "
    "would overstate robustness. Return logits, or append keras.layers.Lambda(tf.math.log)."
)
HIDDEN_SIGMOID = (
    "Expected a logit, or a sigmoid as the model's last operation. Received one unit whose values are probabilities, "
    "with the sigmoid out of sight (an average of sigmoids, or one inside a loaded SavedModel). As a logit "
    "it would put each image into class 1. Return the logit, or append "
    "keras.layers.Lambda(lambda p: tf.math.log(p + 1e-7) - tf.math.log(1 - p + 1e-7))."
)

# Images that are asked about, and how far they are stretched. A unit that is no probability leaves [0, 1] there.
_PROBED = 16
_FAR = (1e3, -1e3)


def looks_like_probabilities(logits: tf.Tensor) -> tf.Tensor:
    """True if all rows of what should be logits (n, k) are >= 0 and sum to 1, to float rounding: real ones never do."""
    sums_to_one = tf.abs(tf.reduce_sum(logits, axis=1) - 1.0) < 1e-5
    return tf.reduce_all(logits >= 0) & tf.reduce_all(sums_to_one)


def checked_logits(outputs: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """`logits`, with a check in the graph that they are not probabilities; for training, where nobody looks at scores.

    Args:
        outputs: the model's output (n, k), traced in a tf.function.
        logits: `logits_of(outputs)`.
    """
    if logits.shape[-1] == 1 or head_kind(outputs) != "logits":
        return logits
    several = tf.shape(logits)[0] > 1  # one image's logits may sum to 1 by chance, and a replica may get none
    check = tf.debugging.Assert(~(several & looks_like_probabilities(logits)), [HIDDEN_SOFTMAX])
    with tf.control_dependencies([op for op in [check] if op is not None]):
        return tf.identity(logits)


def check_unit(model: Any, x: np.ndarray, logits: np.ndarray) -> None:
    """Raise ValueError if the single unit of a tf_keras model that passes for a logit is a probability.

    Values in [0, 1] alone don't tell: an untrained network may give them for all images. So images far outside of the
    range are asked about too, where a probability stays in [0, 1] and a logit leaves it.

    Args:
        model: any classifier; what is no tf_keras model is not looked at, as it has to return a column for each class.
        x: images (n, ...), float32.
        logits: its class logits for them, (n, k), as `logits_fn` gives them.
    """
    if not isinstance(model, keras.Model) or logits.shape[1] != 2 or logits[:, 0].any() or not _in_unit(logits):
        return
    x = x[:_PROBED]
    if not has_bare_unit(model, x):
        return
    far = np.concatenate([logits_fn(model)(tf.constant(factor * x)).numpy() for factor in _FAR])
    # A unit that is the same everywhere is one of a flat network.
    if _in_unit(far) and np.ptp(np.concatenate([logits, far])[:, 1]) > 0:
        raise ValueError(HIDDEN_SIGMOID)


def _in_unit(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())
