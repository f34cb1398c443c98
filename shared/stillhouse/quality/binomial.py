"""Intervals for a share of a fixed number of independent cases. They do not hold under repeated looks.

Wilson's is for display; Clopper-Pearson's is exact and may decide, once, on a sample size fixed beforehand. What is
looked at again and again is `stillhouse.quality.eprocess`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided score interval (lo, hi) of a share (Wilson 1927); approximate, for display. n = 0 gives (0, 1).

    ValueError where not 0 <= successes <= n, or the confidence is outside (0, 1).
    """
    _check(successes, n, confidence)
    if n == 0:
        return 0.0, 1.0
    z = float(ndtri(0.5 + confidence / 2))
    share = successes / n
    shrink = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the edges the formula gives 0 and 1 up to rounding; say so exactly.
    lower = 0.0 if successes == 0 else max(0.0, centre - half)
    upper = 1.0 if successes == n else min(1.0, centre + half)
    return lower, upper


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided exact interval (lo, hi) of a share (Clopper & Pearson 1934), conservative. n = 0 gives (0, 1).

    ValueError where not 0 <= successes <= n, or the confidence is outside (0, 1).
    """
    _check(successes, n, confidence)
    tail = (1 - confidence) / 2
    lower = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    upper = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return lower, upper


def clopper_pearson_upper(errors: int, n: int, delta: float) -> float:
    """One-sided exact upper bound of an error rate: P(true rate > bound) <= delta. n = 0 gives 1.

    ValueError where not 0 <= errors <= n, or delta is outside (0, 1).
    """
    _check(errors, n, 1 - delta)
    return 1.0 if errors == n else float(betaincinv(errors + 1, n - errors, 1 - delta))


def clopper_pearson_uppers(errors: NDArray[np.int64], n: NDArray[np.int64], delta: float) -> NDArray[np.float64]:
    """`clopper_pearson_upper` of many counts at once, float64 of their shape; the counts are taken as valid."""
    return np.where(errors >= n, 1.0, betaincinv(errors + 1.0, np.maximum(n - errors, 1.0), 1 - delta))


def _check(successes: int, n: int, confidence: float) -> None:
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no share; the count must lie between 0 and n")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence of {confidence} is impossible; give a number between 0 and 1")
