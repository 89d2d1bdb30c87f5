"""Square: random search with squares."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from keras_esq._checks import check_fraction, check_positive
from keras_esq.attacks.eager import BlackBoxAttack
from keras_esq.attacks.norms import Norm, get_norm
from keras_esq.attacks.oracle import Questions

# Iterations, of 10,000, after which the share of changed pixels is halved again.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True, kw_only=True, eq=False)
class Square(BlackBoxAttack):
    """Square attack: changes of square windows, each kept if it raises the score's lead of a wrong class.

    Args:
        eps: radius of the ball in input units. Default 8/255, that of the white-box attacks.
        norm: "linf" or "l2". Default "linf".
        p_init: share of the pixels in the first windows, in (0, 1]; it falls by a schedule. Default 0.8, the paper's.
        rescale_schedule: stretch the schedule, made for 10,000 queries, to `query_budget`. Default True, as in the
            paper; AutoAttack does not.
        Others: query_budget=5000 as `BlackBoxAttack`; bounds, targeted, seed.

    Raises:
        ValueError: also at the call, for inputs that are no images (n, height, width) or (n, height, width, channels).

    Reference: Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random
    search", 2020 (arXiv:1912.00049).
    """

    eps: float = 8 / 255
    norm: Norm = "linf"
    p_init: float = 0.8
    rescale_schedule: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("eps", check_positive("eps", self.eps))
        self._set("norm", get_norm(self.norm))
        self._set("p_init", check_positive("p_init", check_fraction("p_init", self.p_init)))
        if not isinstance(self.rescale_schedule, bool):
            raise TypeError(f"Expected rescale_schedule to be True or False. Received: {self.rescale_schedule!r}.")

    def search(self, questions: Questions, x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """See `BlackBoxAttack.search`."""
        if x.ndim not in (3, 4):
            raise ValueError(
                f"Expected images of shape (n, height, width, channels) for Square. Received shape {x.shape}."
            )
        shape = x.shape
        x = x if x.ndim == 4 else x[..., None]
        start, change = (_stripes, _recolour) if self.norm == "linf" else (_chessboard, _move_energy)
        ball = _Ball(self.eps, *self.bounds)
        result, success = x.copy(), np.zeros(len(x), bool)
        alive = np.arange(len(x))
        clean, current = x, start(x, ball, rng)
        lead: np.ndarray | None = None
        candidate = current
        for number in range(self.query_budget - 1):
            scores = questions.ask(candidate.reshape(-1, *shape[1:]), alive)
            now = questions.lead(scores, alive)
            if lead is None:
                lead = now
            else:
                better = now > lead
                current[better], lead[better] = candidate[better], now[better]
            done = questions.fooled(scores, alive)
            if done.any():
                result[alive[done]], success[alive[done]] = candidate[done], True
                keep = ~done
                alive, clean, current, lead = alive[keep], clean[keep], current[keep], lead[keep]
            if not len(alive):
                break
            side = self.side(number + 1, x.shape[1:])
            candidate = change(clean, current, ball, side, rng)
        result[alive] = current
        return result.reshape(shape), success

    def side(self, number: int, shape: tuple[int, ...]) -> int:
        """Side of the square in iteration `number` >= 1 on images of `shape`, in pixels."""
        at = int(number / self.query_budget * 10_000) if self.rescale_schedule else number
        share = self.p_init / 2 ** sum(at > halving for halving in _HALVINGS)
        side = round(float(np.sqrt(share * shape[0] * shape[1])))
        if self.norm == "l2":
            side = max(side, 3)
            side += 1 - side % 2
        # A window of its own for the removed perturbation must fit beside it.
        return int(min(max(side, 1), min(shape[:2]) - (self.norm == "l2" and min(shape[:2]) > 1)))


def _energy(delta: np.ndarray) -> np.ndarray:
    """Sum of squares of each image's channels, (n, channels)."""
    return np.einsum("nhwc,nhwc->nc", delta, delta)


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(0, 2, shape).astype(np.float32) * 2 - 1


def _windows(n: int, shape: tuple[int, ...], side: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Index of a random square window (n, side, side, channels) in each of n images."""
    rows, columns = (rng.integers(0, size - side + 1, n)[:, None] + np.arange(side) for size in shape[1:3])
    return np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]


@dataclass(frozen=True)
class _Ball:
    """Radius of the ball, and the box; plain floats, which leave float32 images what they are."""

    eps: float
    low: float
    high: float


def _stripes(x: np.ndarray, ball: _Ball, rng: np.random.Generator) -> np.ndarray:
    return np.clip(x + ball.eps * _signs(rng, (len(x), 1, *x.shape[2:])), ball.low, ball.high)


def _recolour(x: np.ndarray, current: np.ndarray, ball: _Ball, side: int, rng: np.random.Generator) -> np.ndarray:
    """The images with one colour of +-eps added to x in a window of each."""
    candidate = current.copy()
    window = _windows(len(x), x.shape, side, rng)
    colour = ball.eps * _signs(rng, (len(x), 1, 1, x.shape[3]))
    candidate[window] = np.clip(x[window] + colour, ball.low, ball.high)
    return candidate


def _chessboard(x: np.ndarray, ball: _Ball, rng: np.random.Generator) -> np.ndarray:
    """A grid of bumps, five a side, of random signs."""
    delta = np.zeros_like(x)
    height, width = x.shape[1:3]
    side = max(min(height, width) // 5, 1)
    for top in range((height - height // side * side) // 2, height - side + 1, side):
        for left in range((width - width // side * side) // 2, width - side + 1, side):
            bump = _bumps(len(x), side, rng) * _signs(rng, (len(x), 1, 1, x.shape[3]))
            delta[:, top : top + side, left : left + side] += bump
    return _onto_sphere(x, delta, ball)


def _onto_sphere(x: np.ndarray, delta: np.ndarray, ball: _Ball) -> np.ndarray:
    length = np.sqrt(np.maximum(_energy(delta).sum(axis=1), 1e-24))[:, None, None, None]
    return np.clip(x + delta * (ball.eps / length), ball.low, ball.high)


def _move_energy(x: np.ndarray, current: np.ndarray, ball: _Ball, side: int, rng: np.random.Generator) -> np.ndarray:
    """The images with the energy of one window, and what the ball has left, moved into a bump in another."""
    delta = current - x
    goes, comes = (_windows(len(x), x.shape, side, rng) for _ in range(2))
    energy = _energy(delta)
    left = np.maximum(ball.eps**2 - energy.sum(axis=1, keepdims=True), 0) / x.shape[3]
    old = delta[comes]
    delta[goes] = delta[comes] = 0
    rest = _energy(delta)
    bump = _bumps(len(x), side, rng) * _signs(rng, (len(x), 1, 1, x.shape[3]))
    bump += old / np.sqrt(np.maximum(_energy(old), 1e-24))[:, None, None]
    wanted = np.maximum(energy - rest, 0) + left
    bump *= np.sqrt(wanted / np.maximum(_energy(bump), 1e-24))[:, None, None]
    delta[comes] = bump
    return _onto_sphere(x, delta, ball)


def _bumps(n: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """A pair of pyramids of opposite sign, one above or beside the other, of length 1: (n, side, side, 1)."""
    bump = _pair(side)
    return np.where(rng.random(n)[:, None, None] < 0.5, bump, bump.T).astype(np.float32)[..., None]


@functools.lru_cache(maxsize=64)
def _pair(side: int) -> np.ndarray:
    pair = np.zeros((side, side))
    if side == 1:
        return pair + 1.0
    half = side // 2
    pair[:half], pair[half:] = _pyramid(half, side), -_pyramid(side - half, side)
    return pair / np.linalg.norm(pair)


def _pyramid(height: int, width: int) -> np.ndarray:
    """Growing rectangles around the middle, the k-th adding 1 / k^2; of length 1."""
    bump = np.zeros((height, width))
    top, left = height // 2, width // 2
    for k in range(max(top, left) + 1):
        bump[max(top - k, 0) : top + k + 1, max(left - k, 0) : left + k + 1] += 1.0 / (k + 1) ** 2
    return bump / np.linalg.norm(bump)
