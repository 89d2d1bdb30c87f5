"""A classifier as black-box attacks know it: images in, scores out, each question counted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.attacks.logits import input_shape_of, logits_fn

# Images per question: bounds the memory of attacks that ask about a population for each sample.
_LARGEST_QUESTION = 1024


class Oracle:
    """Scores of any classifier: a tf_keras or Keras 3 model, an object with `predict`, or a function.

    Args:
        model: numpy images (n, ...) float32 -> scores (n, k), k >= 2: logits or probabilities, as
            `keras_esq.Flatbuffer.predict` gives. Of a tf_keras model the logits are taken.

    Raises:
        TypeError: for anything else.
    """

    def __init__(self, model: Any) -> None:
        self._predict = _predictor(model)
        # A .tflite file goes by its path.
        names = (str(getattr(model, name, None) or "") for name in ("name", "path", "__name__"))
        self.name = next(filter(None, names), type(model).__name__)
        self._classes: int | None = None
        self.input_shape = input_shape_of(model) if isinstance(model, keras.Model) else None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Scores (n, k), float32, of images (n, ...).

        Raises:
            ValueError: if what the classifier returns is not finite or not of shape (n, k) with the same k each time.
        """
        chunks = (x[i : i + _LARGEST_QUESTION] for i in range(0, len(x), _LARGEST_QUESTION))
        return np.concatenate([self._answer(chunk) for chunk in chunks])

    def _answer(self, x: np.ndarray) -> np.ndarray:
        # A copy: a function that works in place must not change the attack's own images.
        scores = np.asarray(self._predict(x.copy()))
        if scores.dtype.kind not in "fiu":
            raise ValueError(f"Expected {self.name!r} to return numbers. Received elements of {scores.dtype}.")
        wanted = f"({len(x)}, {'classes' if self._classes is None else self._classes})"
        shaped = scores.ndim == 2 and len(scores) == len(x) and scores.shape[1] >= 2
        if not shaped or self._classes not in (None, scores.shape[1]):
            advice = (
                " For a single unit return a column for each of its two classes." if scores.shape[1:] == (1,) else ""
            )
            raise ValueError(
                f"Expected {self.name!r} to return scores of shape {wanted} for {len(x)} images. "
                f"Received shape {scores.shape}.{advice}"
            )
        self._classes = scores.shape[1]
        if not np.isfinite(scores).all():
            bad = int((~np.isfinite(scores).all(axis=1)).sum())
            raise ValueError(
                f"Expected finite scores. {self.name!r} returned NaN or infinity for {bad} of {len(x)} images. "
                "Check its weights, or bound what it returns."
            )
        return scores.astype(np.float32, copy=False)


class Questions:
    """An oracle for a batch under attack: counts the questions about each sample and judges the answers.

    Args:
        oracle: whom to ask.
        labels: (n,), the true classes or the targets.
        targeted: whether they are targets.
        scores: what is known of the clean images, (n, k).
        budget: questions allowed per sample, the one about the clean image included.
    """

    def __init__(self, oracle: Oracle, labels: np.ndarray, targeted: bool, scores: np.ndarray, budget: int) -> None:
        self._oracle, self._labels, self._targeted = oracle, labels, targeted
        self.scores = scores
        self.budget = budget
        self.queries = np.ones(len(labels), np.int64)

    def ask(self, x: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Scores (m, k) of the images `x` (m, ...), made from the samples of number `index` (m,); counted."""
        self.queries += np.bincount(index, minlength=len(self.queries))
        return self._oracle(x)

    def fooled(self, scores: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Where the attack has what it wants, (m,) bool."""
        return np.equal(scores.argmax(axis=1), self._labels[index]) == self._targeted

    def lead(self, scores: np.ndarray, index: np.ndarray) -> np.ndarray:
        """How far the attack is, (m,): the lead of the best wrong class over the true one, or of the target."""
        rows, labels = np.arange(len(scores)), self._labels[index]
        own = scores[rows, labels]
        others = scores.copy()
        others[rows, labels] = -np.inf
        lead = others.max(axis=1) - own
        return -lead if self._targeted else lead

    def left(self, index: np.ndarray) -> np.ndarray:
        """Questions left for the samples of number `index`, (m,)."""
        return self.budget - self.queries[index]


def _predictor(model: Any) -> Callable[[np.ndarray], Any]:
    if isinstance(model, keras.Model):
        logits = logits_fn(model)
        return lambda x: logits(tf.constant(x)).numpy()
    keras_3 = getattr(sys.modules.get("keras"), "Model", None)
    if isinstance(keras_3, type) and isinstance(model, keras_3):
        return lambda x: model(x, training=False)  # type: ignore[operator]
    predict = getattr(model, "predict", model)
    if not callable(predict) or isinstance(model, type):
        raise TypeError(
            "Expected a classifier: a tf_keras.Model or Keras 3 model, an object with predict(x) such as "
            "keras_esq.Flatbuffer, or a function of numpy images (n, ...) to scores (n, classes). "
            f"Received: {type(model).__name__}."
        )
    return predict


def log_scores(scores: np.ndarray) -> np.ndarray:
    """The logarithm of probabilities (n, k), the lead in which is that of the logits; other scores as they are."""
    # A deployed int8 file rounds its probabilities to 1/256, so they needn't sum to exactly 1.
    total = scores.sum(axis=1)
    if scores.min() < 0 or scores.max() > 1 or np.abs(total - 1).max() > scores.shape[1] / 256:
        return scores
    return np.log(np.maximum(scores, 1e-30))
