"""Bounds for a quantile from order statistics: exact for any continuous law, conservative for others.

Of n independent values, the number at most the q-quantile is binomial(n, q), so the sorted values themselves are bounds
of known confidence (David & Nagaraja, Order Statistics, 7.1). For a fixed n: not to be looked at again and again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import binom


def quantile_bounds(values: Sequence[float], q: float, delta: float) -> tuple[float, float]:
    """(lower, upper) for the `q`-quantile, each wrong with probability `delta` at most; infinite where n is too small.

    An upper bound of the 99th percentile at delta = 5 % takes 299 values. ValueError for q or delta outside (0, 1).
    """
    if not (0.0 < q < 1.0 and 0.0 < delta < 1.0):
        raise ValueError(f"q {q} and delta {delta} must both lie between 0 and 1")
    ordered, n = sorted(values), len(values)
    if n == 0:
        return -math.inf, math.inf
    # P(X_(k) <= quantile) = P(at least k values are <= it), so X_(k) is above it with probability P(Bin <= k - 1).
    above = int(binom.ppf(1.0 - delta, n, q)) + 1
    below = int(binom.ppf(delta, n, q))
    if binom.cdf(below, n, q) > delta:
        below -= 1
    return (ordered[below] if below >= 0 else -math.inf), (ordered[above - 1] if above <= n else math.inf)
