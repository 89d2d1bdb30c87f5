"""NAttack: a distribution of adversarial images, learned by scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from keras_esq._checks import check_count, check_positive
from keras_esq.attacks.eager import BlackBoxAttack
from keras_esq.attacks.norms import Norm, get_norm
from keras_esq.attacks.oracle import Questions, log_scores

# Images of a population held at once, over all samples: bounds the memory.
_LARGEST_POPULATION = 8192
_INSIDE = 0.999999


@dataclass(frozen=True, kw_only=True, eq=False)
class NAttack(BlackBoxAttack):
    """N-Attack: learns the mean of the normal distribution, in the space of atanh, that adversarial images come from.

    Each iteration draws `population` points mu + sigma * e_i, maps them by tanh into the box and clips them into the
    ball around x; J_i is how far the true class leads in log probability, at least 0; and, with z-scores of J,
    mu <- mu - learning_rate / (population * sigma) * sum_i z_i e_i. The first draw that fools is the result, else mu.

    Args:
        eps: radius of the ball in input units. Default 8/255, that of the white-box attacks.
        norm: "linf" or "l2". Default "linf", the paper's; [ESQ] takes "l2".
        population: draws per iteration, >= 2. Default 300, the published code's. The last iteration has what the budget
            leaves.
        sigma: standard deviation in the space of atanh. Default 0.1, the paper's.
        learning_rate: Default 0.02, the paper's.
        query_budget: as `BlackBoxAttack`. Default 20,000, 66 iterations; the published code takes up to 120,000.
        Others: bounds, targeted, seed.

    Reference: Li et al., "NATTACK: Learning the Distributions of Adversarial Examples for an Improved Black-Box Attack
    on Deep Neural Networks", 2019 (arXiv:1905.00441), algorithm 1.
    """

    eps: float = 8 / 255
    norm: Norm = "linf"
    population: int = 300
    sigma: float = 0.1
    learning_rate: float = 0.02
    query_budget: int = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("norm", get_norm(self.norm))
        check_count("population", self.population, minimum=2, advice="One draw has no z-score.")
        for name in ("eps", "sigma", "learning_rate"):
            self._set(name, check_positive(name, getattr(self, name)))

    def search(self, questions: Questions, x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """See `BlackBoxAttack.search`."""
        group = max(1, _LARGEST_POPULATION // self.population)
        result, success = x.copy(), np.zeros(len(x), bool)
        for start in range(0, len(x), group):
            index = np.arange(start, min(start + group, len(x)))
            self._learn(questions, x, index, result, success, rng)
        return result, success

    def _learn(
        self,
        questions: Questions,
        x: np.ndarray,
        alive: np.ndarray,
        result: np.ndarray,
        success: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Attack the samples of number `alive`, into `result` and `success`."""
        low, high = self.bounds
        middle, half = np.float32((low + high) / 2), np.float32((high - low) / 2)
        size = math.prod(x.shape[1:])
        flat = x.reshape(len(x), size)
        mu = np.arctanh((flat[alive] - middle) / half * np.float32(_INSIDE))
        mu += 0.001 * rng.standard_normal(mu.shape, dtype=np.float32)
        while len(alive):
            count = int(min(self.population, questions.left(alive).min() - 1))
            if count < 1:
                break
            noise = rng.standard_normal((len(alive), count, size), dtype=np.float32)
            drawn = middle + half * np.tanh(mu[:, None] + np.float32(self.sigma) * noise)
            drawn = self._into_ball(flat[alive][:, None], drawn)
            index = np.repeat(alive, count)
            scores = questions.ask(drawn.reshape(-1, *x.shape[1:]), index)
            fooled = questions.fooled(scores, index).reshape(len(alive), count)
            distance = np.maximum(-questions.lead(log_scores(scores), index), 0).reshape(len(alive), count)
            spread = distance.std(axis=1, keepdims=True)
            z = (distance - distance.mean(axis=1, keepdims=True)) / (spread + 1e-7)
            mu -= self.learning_rate / (count * self.sigma) * np.einsum("nb,nbd->nd", z, noise)
            done = fooled.any(axis=1)
            # Of the draws that fool: the first, which is as good as any, and as random.
            result[alive[done]] = drawn[done, fooled[done].argmax(axis=1)].reshape(-1, *x.shape[1:])
            success[alive[done]] = True
            alive, mu = alive[~done], mu[~done]
        if len(alive):  # the last question is about the mean itself, which is what is handed back
            result[alive] = self._into_ball(flat[alive], middle + half * np.tanh(mu)).reshape(-1, *x.shape[1:])
            success[alive] = questions.fooled(questions.ask(result[alive], alive), alive)

    def _into_ball(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """The points drawn (..., d), in the box, moved into the ball around `x`."""
        delta = drawn - x
        if self.norm == "linf":
            delta = np.clip(delta, -self.eps, self.eps)
        else:
            length = np.linalg.norm(delta, axis=-1, keepdims=True)
            delta *= np.minimum(1.0, self.eps / np.maximum(length, 1e-12)).astype(np.float32)
        # Rounding may leave the box again.
        return np.clip(x + delta, *self.bounds).astype(np.float32, copy=False)
