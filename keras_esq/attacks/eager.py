"""Attacks that run step by step outside of graphs: black boxes, ensembles, transfer."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from keras_esq._checks import check_count, check_images
from keras_esq.attacks.base import Attack
from keras_esq.attacks.hidden import check_unit
from keras_esq.attacks.logits import LogitsFn
from keras_esq.attacks.oracle import Oracle, Questions
from keras_esq.attacks.result import AttackResult


@dataclass(frozen=True, kw_only=True, eq=False)
class EagerAttack(Attack):
    """An attack outside of graphs; a subclass writes `attack_right`. Not for use in a training step.

    Samples that the classifier gets wrong as they are, or that are in the target class already, stay as they are.
    """

    # False where questions are not all that the attack does: a count of them would tell nothing.
    counts_queries: ClassVar[bool] = True

    @abc.abstractmethod
    def attack_right(
        self, model: Any, oracle: Oracle, x: np.ndarray, labels: np.ndarray, scores: np.ndarray, batch_size: int
    ) -> AttackResult:
        """Attack samples that are not fooled yet.

        Args:
            model: what the user passed.
            oracle: the same to ask.
            x: images (n, ...), n >= 1, checked.
            labels: (n,), the true classes or the targets.
            scores: (n, k) of `x`.
            batch_size: images attacked at once.
        """

    def run(self, model: Any, x: Any, y: Any, *, y_target: Any = None, batch_size: int = 128) -> AttackResult:
        """See `Attack.run`; `model` may be any classifier, see `Oracle`, if the attack needs no gradient.

        Raises: also ValueError, if the classifier returns scores that are not finite or not of shape (n, classes),
            or if a tf_keras model hides its sigmoid.
        """
        self.check_target(model)
        check_count("batch_size", batch_size)
        oracle = Oracle(model)
        images = check_images(x, self.bounds, oracle.input_shape)
        scores = oracle(images)
        labels = self._labels(y, y_target, scores.shape[1], len(images))
        check_unit(model, images, scores)
        x_adv, queries = images.copy(), np.ones(len(images), np.int64)
        success = np.equal(scores.argmax(axis=1), labels) == self.targeted
        todo = np.flatnonzero(~success)
        if len(todo):
            found = self.attack_right(model, oracle, images[todo], labels[todo], scores[todo], batch_size)
            x_adv[todo], success[todo] = found.x_adv, found.success
            queries[todo] = found.queries if self.counts_queries else 0
        return AttackResult(x_adv=x_adv, success=success, queries=queries if self.counts_queries else None)

    def check_target(self, model: Any) -> None:
        """Raise TypeError if `model` is of a kind that this attack can't use. Default: all that `Oracle` takes."""

    def generate(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Not for these.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"Expected an attack that can be compiled into a graph, such as PGD. Received: {type(self).__name__}, "
            "which runs step by step. Call it as attack(model, x, y), outside of training."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class BlackBoxAttack(EagerAttack):
    """An attack that only asks: it takes any classifier from images to scores, a .tflite file included.

    `run` tells how often it asked about each sample. A subclass writes `search`.

    Args:
        query_budget: questions allowed per sample, the one about its clean image included. Default 5000, Square's in
            AutoAttack.
        Others: bounds, targeted, seed as `Attack`.
    """

    query_budget: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("query_budget", self.query_budget, minimum=2, advice="One goes to the clean image.")

    @abc.abstractmethod
    def search(self, questions: Questions, x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Adversarial images (n, ...), float32, and whether each fools (n,) bool.

        Args:
            questions: the classifier, who counts; `left` must not fall below 0.
            x: images (n, ...) that are not fooled yet.
            rng: source of all randomness.
        """

    def attack_right(
        self, model: Any, oracle: Oracle, x: np.ndarray, labels: np.ndarray, scores: np.ndarray, batch_size: int
    ) -> AttackResult:
        """See `EagerAttack.attack_right`."""
        seed = self._call_seed()
        x_adv, success, queries = np.empty_like(x), np.empty(len(x), bool), np.empty(len(x), np.int64)
        for number, start in enumerate(range(0, len(x), batch_size)):
            batch = slice(start, start + batch_size)
            questions = Questions(oracle, labels[batch], self.targeted, scores[batch], self.query_budget)
            found, success[batch] = self.search(questions, x[batch], np.random.default_rng([seed, number]))
            x_adv[batch], queries[batch] = found, questions.queries
        return AttackResult(x_adv=x_adv, success=success, queries=queries)
