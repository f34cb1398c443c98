"""A cheap checker looks at everything, people look at some: what the two say together about a share.

The mean of the people's verdicts y is that of the checker's f plus that of what it gets wrong, E[y] = E[f] + E[y - f];
the first is known from all cases, the second from those that people reviewed, *drawn at random* (prediction-powered
inference: Angelopoulos et al., arXiv 2301.09633). A good checker leaves little to learn from people, a bad one cannot
mislead.

`powered_mean` is PPI++ (arXiv 2311.01453): the checker counts with the weight that makes the interval narrowest. Its
interval is a normal approximation for a fixed sample: for display. `powered_bounds` decides: bets
(`stillhouse.quality.betting`) on f and on y - f, each valid at every look, added by the union bound; and beside them
the bound from y alone, so that a useless checker costs next to nothing (cf. prediction-powered e-values, Csillag et
al., arXiv 2502.04294).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from stillhouse.quality.betting import mean_lower_bound


@dataclass(frozen=True, slots=True)
class PoweredMean:
    """An estimate with its interval; `weight` is how much the checker counted, 0 for not at all."""

    estimate: float
    lower: float
    upper: float
    weight: float


def powered_mean(
    reviewed: ArrayLike, checked: ArrayLike, unreviewed: ArrayLike, confidence: float = 0.95
) -> PoweredMean:
    """The PPI++ estimate of E[y] with its approximate two-sided interval.

    `reviewed` and `checked`: people's and the checker's verdicts on the same n cases; `unreviewed`: the checker's on
    the N others. ValueError for fewer than 2 reviewed cases or lists that do not match.
    """
    y, f, g = (np.asarray(values, dtype=np.float64) for values in (reviewed, checked, unreviewed))
    if y.shape != f.shape or y.ndim != 1 or y.size < 2:
        raise ValueError(f"{y.size} reviewed and {f.size} checked cases; give both for the same 2 or more")
    n, others = y.size, g.size
    spread = float(np.concatenate([f, g]).var(ddof=1))
    covariance = float(np.cov(y, f, ddof=0)[0, 1])
    best = covariance / ((1 + n / others) * spread) if others and spread > 0 else 0.0
    weight = min(1.0, max(0.0, best))
    estimate = float((y - weight * f).mean() + (weight * g.mean() if others else 0.0))
    variance = float((y - weight * f).var()) / n
    if others:
        variance += weight**2 * float(g.var()) / others
    half = float(ndtri(0.5 + confidence / 2)) * math.sqrt(variance)
    return PoweredMean(estimate, estimate - half, estimate + half, weight)


def powered_bounds(
    everything: ArrayLike, reviewed: ArrayLike, checked: ArrayLike, alpha: float, times: float = 1.0
) -> tuple[float, float]:
    """(lower, upper) of E[y], each ever wrong, at any look, with probability `alpha` at most.

    `everything`: the checker's verdicts on all cases, those reviewed included; the others as in `powered_mean`. All in
    [0, 1]. With `times` it is a forecast, as in `mean_lower_bound`. ValueError for lists that do not match.
    """
    f_all, y, f = (np.asarray(values, dtype=np.float64) for values in (everything, reviewed, checked))
    if y.shape != f.shape:
        raise ValueError(f"{y.size} reviewed and {f.size} checked cases; give both for the same ones")
    return _lower(f_all, y, f, alpha, times), 1.0 - _lower(1.0 - f_all, 1.0 - y, 1.0 - f, alpha, times)


def _lower(f_all: ArrayLike, y: np.ndarray, f: np.ndarray, alpha: float, times: float) -> float:
    """The better of two bounds, at half of alpha each; the one with the checker is a sum of two, at a quarter each."""
    alone = mean_lower_bound(y, 1 - alpha / 2, times)
    checker = mean_lower_bound(f_all, 1 - alpha / 4, times)
    missed = 2 * mean_lower_bound((y - f + 1) / 2, 1 - alpha / 4, times) - 1  # y - f lies in [-1, 1]
    return max(0.0, alone, checker + missed)
