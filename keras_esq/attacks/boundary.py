"""Boundary attack: a walk along the decision boundary by decisions alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_esq._checks import check_count, check_positive
from keras_esq.attacks.eager import BlackBoxAttack
from keras_esq.attacks.oracle import Questions

# How many questions about a kind of move tell how well it works, and by how much a step then changes.
_ORTHOGONAL_TRIALS, _STEP_TRIALS, _ADAPT = 20, 20, 1.5
# A question about the orthogonal move alone, which only adapts the step, every so many steps.
_PROBE_EVERY = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Boundary(BlackBoxAttack):
    """Boundary attack: from a fooling image towards the true one, along the boundary; uses nothing but the decision.

    Starts from uniform noise that fools (if none is found, from another image of the batch that is seen as a fitting
    class), goes to the boundary by bisection, then makes random moves: one on the sphere around the image, one towards
    it, kept if the result still fools. Step lengths adapt per sample so that about half of the first and a quarter of
    the second succeed. A sample for which nothing is found is returned as it is.

    Args:
        eps: L2 radius in input units: a sample within it is done; one that does not get there is returned as it is.
            Default None: all questions are used to come nearer.
        spherical_step: first length of a move on the sphere, as a share of the distance. Default 0.1. (The paper's
            0.01, which adapts to about this, costs questions.)
        source_step: first length of a move towards the image, as a share of the distance. Default 0.1.
        init_tries: noise images tried per sample. Default 25.
        Others: query_budget=5000 as `BlackBoxAttack` (the paper goes up to a million); bounds, targeted, seed.

    Reference: Brendel et al., "Decision-Based Adversarial Attacks: Reliable Attacks Against Black-Box Machine Learning
    Models", 2018 (arXiv:1712.04248).
    """

    eps: float | None = None
    spherical_step: float = 0.1
    source_step: float = 0.1
    init_tries: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is not None:
            self._set("eps", check_positive("eps", self.eps))
        for name in ("spherical_step", "source_step"):
            self._set(name, check_positive(name, getattr(self, name)))
        check_count("init_tries", self.init_tries)

    def search(self, questions: Questions, x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """See `BlackBoxAttack.search`."""
        shape = x.shape
        starts, found = self._starts(questions, x, rng)
        clean, current = x.reshape(len(x), -1), starts.reshape(len(x), -1)
        index = np.flatnonzero(found)
        current[index] = self._bisect(questions, clean[index], current[index], index, shape)
        self._walk(questions, clean, current, index, shape, rng)
        if self.eps is not None:
            found &= _norm(current - clean)[:, 0] <= self.eps
        current[~found] = clean[~found]
        return current.reshape(shape), found

    def _starts(self, questions: Questions, x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        starts, found = x.copy(), np.zeros(len(x), bool)
        for _ in range(self.init_tries):
            index = np.flatnonzero(~found & (questions.left(np.arange(len(x))) > 0))
            if not len(index):
                break
            noise = rng.uniform(*self.bounds, (len(index), *x.shape[1:])).astype(np.float32)
            fooled = questions.fooled(questions.ask(noise, index), index)
            starts[index[fooled]], found[index[fooled]] = noise[fooled], True
        for sample in np.flatnonzero(~found):
            # What the other images are seen as is known already.
            others = questions.fooled(questions.scores, np.full(len(x), sample))
            others[sample] = False
            if others.any():
                distance = _norm((x - x[sample]).reshape(len(x), -1))[:, 0]
                starts[sample], found[sample] = x[np.where(others, distance, np.inf).argmin()], True
        return starts, found

    def _bisect(
        self, questions: Questions, clean: np.ndarray, far: np.ndarray, index: np.ndarray, shape: tuple[int, ...]
    ) -> np.ndarray:
        """The nearest images that fool on the lines from `clean` (not fooling) to `far`."""
        near = clean.copy()
        far = far.copy()
        for _ in range(10):
            active = np.flatnonzero(questions.left(index) > 0)
            if not len(active):
                break
            middle = (near[active] + far[active]) / 2
            fooled = questions.fooled(questions.ask(middle.reshape(-1, *shape[1:]), index[active]), index[active])
            far[active[fooled]], near[active[~fooled]] = middle[fooled], middle[~fooled]
        return far

    def _walk(
        self,
        questions: Questions,
        clean: np.ndarray,
        current: np.ndarray,
        index: np.ndarray,
        shape: tuple[int, ...],
        rng: np.random.Generator,
    ) -> None:
        """Move the images `current` of number `index` nearer to `clean`, in place, until the budget is used."""
        orthogonal = _Rate(len(clean), _ORTHOGONAL_TRIALS)
        forward = _Rate(len(clean), _STEP_TRIALS)
        spherical = np.full((len(clean), 1), self.spherical_step, np.float32)
        source = np.full((len(clean), 1), self.source_step, np.float32)
        low, high = (np.float32(bound) for bound in self.bounds)
        number = 0
        while True:
            index = index[questions.left(index) > 0]
            away = current[index] - clean[index]
            distance = _norm(away)
            # Nothing is gained below the rounding of float32, and by eps it is told to stop.
            keep = distance[:, 0] > max(1e-6 * float(high - low), self.eps or 0.0)
            index, away, distance = index[keep], away[keep], distance[keep]
            if not len(index):
                return
            unit = away / distance
            noise = rng.standard_normal(away.shape, dtype=np.float32)
            noise -= (noise * unit).sum(axis=1, keepdims=True) * unit
            noise *= spherical[index] * distance / np.maximum(_norm(noise), 1e-12)
            around = away + noise
            around *= distance / _norm(around)
            moved = np.clip(clean[index] + around * (1 - source[index]), low, high)
            fooled = questions.fooled(questions.ask(moved.reshape(-1, *shape[1:]), index), index)
            nearer = fooled & (_norm(moved - clean[index])[:, 0] < distance[:, 0])
            forward.add(index, fooled)
            if number % _PROBE_EVERY == 0:
                some = questions.left(index) > 0
                probe = np.clip(clean[index[some]] + around[some], low, high)
                if len(probe):
                    answer = questions.ask(probe.reshape(-1, *shape[1:]), index[some])
                    orthogonal.add(index[some], questions.fooled(answer, index[some]))
            current[index[nearer]] = moved[nearer]
            # The paper's rule: the sphere looks flat where half of the orthogonal moves fool.
            often, seldom = orthogonal.verdict(above=0.5, below=0.2)
            spherical[often] = np.minimum(spherical[often] * _ADAPT, 1.0)
            spherical[seldom] /= _ADAPT
            often, seldom = forward.verdict(above=0.25, below=0.1)
            source[often] = np.minimum(source[often] * _ADAPT, 0.5)
            source[seldom] /= _ADAPT
            number += 1


class _Rate:
    """How often something succeeds, per sample, over the last so many trials."""

    def __init__(self, n: int, trials: int) -> None:
        self._needed = trials
        self._trials, self._successes = np.zeros(n, np.int64), np.zeros(n, np.int64)

    def add(self, index: np.ndarray, success: np.ndarray) -> None:
        self._trials[index] += 1
        self._successes[index] += success

    def verdict(self, *, above: float, below: float) -> tuple[np.ndarray, np.ndarray]:
        """Samples whose rate lies above or below the limits, (n,) bool each; full counts begin anew."""
        full = self._trials >= self._needed
        rate = self._successes / np.maximum(self._trials, 1)
        self._trials[full] = self._successes[full] = 0
        return full & (rate > above), full & (rate < below)


def _norm(x: np.ndarray) -> np.ndarray:
    """L2 length of each row, (n, 1)."""
    return np.sqrt(np.einsum("nd,nd->n", x, x))[:, None]
