"""How sure an accuracy is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_esq._checks import check_count

# 97.5 % quantile of the normal distribution.
Z_95 = 1.959963984540054


def wilson_interval(k: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a share of k in n; sound also near 0, where accuracies under attack are.

    Args:
        k: successes, 0 <= k <= n.
        n: trials, >= 1.
        z: quantile of the normal distribution. Default that of a 95 % interval.

    Raises:
        TypeError: if k or n is no integer.
        ValueError: if n < 1 or k is not in [0, n].

    Reference: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    n, k = check_count("n", n), check_count("k", k, minimum=0)
    if k > n:
        raise ValueError(f"Expected k in [0, n]. Received: k={k}, n={n}.")
    share = k / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the formula gives exactly 0 and 1, its rounding does not.
    return (0.0 if k == 0 else center - half), (1.0 if k == n else center + half)


def paired_interval(differences: Sequence[float], z: float = Z_95) -> tuple[float, float]:
    """Interval (low, high) of the difference of two shares that were counted on the same samples.

    Much narrower than what the intervals of both shares tell, as samples that are hard for one model are hard for the
    other too: the samples on which both agree do not count as noise.

    Args:
        differences: one a sample, (n,): 1 where just the first is right, -1 where just the second is, 0 elsewhere; of
            several pairs of models, such as those of several seeds, the mean over the pairs, in [-1, 1].
        z: quantile of the normal distribution. Default that of a 95 % interval.

    Raises:
        TypeError: if they are no numbers.
        ValueError: if there is no sample, or a difference is not in [-1, 1].

    Reference: Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", 2005: Wald's
    interval with half a sample more in each cell of the table, so that it has a width also where all agree.
    """
    try:
        values = np.asarray(differences, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"Expected differences as numbers (n,). Received: {differences!r}.") from error
    if values.ndim != 1 or not values.size or not (np.abs(values) <= 1).all():
        raise ValueError(
            f"Expected differences (n,), n >= 1, all in [-1, 1]. Received shape {values.shape}: {str(values)[:60]}. "
            "Subtract the 0 or 1 of one model from those of the other, sample by sample."
        )
    n = values.size + 2
    mean = values.sum() / n
    half = z * math.sqrt(((values**2).sum() + 1) / n - mean * mean) / math.sqrt(n)
    return max(float(mean - half), -1.0), min(float(mean + half), 1.0)
