"""How far a student's confidence is from how often it is right: the binned calibration error, with bounds that hold.

With fixed bins of confidence c and y = 1 where student and teacher agree, ECE = sum over bins of |E[(y - c) 1{bin}]|,
which is the largest E[s(bin) (y - c)] over all signs s(bin) = +-1. So an upper bound is one for all 2^bins sign
patterns at once, and a lower bound is one for any pattern, here for the signs that the cases *before* each case
suggest. Both are empirical-Bernstein supermartingales (Howard et al., arXiv 1810.08240; Waudby-Smith & Ramdas, arXiv
2010.09686, theorem 2): for x in [-1, 1] and bets 0 < b < 1 fixed before each case, product of exp(b (E[x] - x) - psi(b)
x^2) with psi(b) = -log(1 - b) - b never reaches 1/alpha with probability over alpha. The plain estimate is biased
upwards (a perfect student has one above 0) and decides nothing. The error within bins is not seen: the unbinned error
may be larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class CalibrationError:
    """After each case, arrays of shape (n,): the plain estimate, and bounds that hold at all looks together."""

    estimate: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


def calibration_error(confidence: ArrayLike, agrees: ArrayLike, alpha: float, bins: int = 10) -> CalibrationError:
    """The error over `bins` bins of equal width, after each case; a bound ever fails with chance `alpha` at most.

    `confidence` in [0, 1] and `agrees`, both of shape (n,), in the order in which the cases came. ValueError otherwise.
    """
    c, y = np.asarray(confidence, dtype=np.float64), np.asarray(agrees, dtype=np.float64)
    if c.ndim != 1 or c.shape != y.shape or not ((c >= 0) & (c <= 1)).all():
        raise ValueError("confidence and agrees must be lists of one length, confidence between 0 and 1")
    if not 0.0 < alpha < 1.0 or not 1 <= bins <= 50:
        raise ValueError(f"alpha {alpha} must lie between 0 and 1, bins {bins} between 1 and 50")
    n = c.size
    which = np.minimum((c * bins).astype(int), bins - 1)
    in_bin = np.zeros((n, bins))
    in_bin[np.arange(n), which] = 1.0
    x = y - c
    sums = np.cumsum(in_bin * x[:, None], axis=0)
    estimate = np.abs(sums).sum(axis=1) / np.arange(1, n + 1)

    level = bins * math.log(2.0) - math.log(alpha)
    bets = _bets(x, level)
    weighted = np.abs(np.cumsum(in_bin * (bets * x)[:, None], axis=0)).sum(axis=1)
    upper = (weighted + np.cumsum(_psi(bets) * x * x) + level) / np.cumsum(bets)

    before = np.vstack([np.zeros((1, bins)), sums[:-1]]) if n else sums
    guessed = np.where(before[np.arange(n), which] >= 0, x, -x)
    bets = _bets(x, -math.log(alpha))
    lower = (np.cumsum(bets * guessed) - np.cumsum(_psi(bets) * x * x) + math.log(alpha)) / np.cumsum(bets)
    # What was excluded at an earlier look stays excluded.
    return CalibrationError(
        estimate,
        np.maximum.accumulate(np.clip(lower, 0.0, 1.0)),
        np.minimum.accumulate(np.clip(upper, 0.0, 1.0)),
    )


def _bets(x: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """For each case a bet that only the cases before it decide: about what is best after that many of their spread."""
    seen = np.arange(1, x.size + 1)
    spread = (0.25 + np.concatenate([[0.0], np.cumsum(x * x)[:-1]])) / seen
    return np.minimum(0.5, np.sqrt(2.0 * level / (spread * seen * np.log1p(seen)))) if x.size else np.zeros(0)


def _psi(bets: NDArray[np.float64]) -> NDArray[np.float64]:
    return -np.log1p(-bets) - bets
