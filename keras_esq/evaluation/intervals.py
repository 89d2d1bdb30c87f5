"""How sure an accuracy is."""

from __future__ import annotations

import math

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
