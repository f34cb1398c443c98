"""Tests and bounds for the mean of graded scores: bet on every case, look whenever you like.

Of scores x in [0, 1] with mean mu, somebody who doubts mu <= m bets the share c of his capital on each case:

    K(m) = average over c of  product over cases of (1 - c + c x / m),    c as Jeffreys' prior spreads it over (0, 1).

For every mu <= m it is a non-negative supermartingale that starts at 1, so P(K ever reaches 1/alpha) <= alpha (Ville),
and the m that it has not rejected are a confidence sequence (Waudby-Smith & Ramdas, arXiv 2010.09686; with an
average over c: Orabona & Jun, arXiv 2110.14099). Each factor falls in m, so the rejected m are all below one
number: the lower bound. The upper bound is the lower bound of 1 - x. Scores of another range [low, high] are mapped to
[0, 1] first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillhouse.quality.eprocess import Verdict
from stillhouse.quality.forecast import fewest

_BETS: Final = np.sin((np.arange(32) + 0.5) / 32 * (math.pi / 2)) ** 2  # the quantiles of the arcsine law


class ScoreTest:
    """Tests whether the mean score is above `floor`, with chance `alpha` at most of either wrong verdict.

    *passed*: P(passed, ever) <= alpha if the mean is <= floor. *failed*: P(failed, ever) <= alpha if it is >= floor. A
    verdict stays. For scores that are only right or wrong `AgreementTest` is the same promise, somewhat sooner.
    """

    def __init__(self, floor: float, alpha: float, low: float = 0.0, high: float = 1.0) -> None:
        """Scores lie in [`low`, `high`], `floor` between them, `alpha` in (0, 1); ValueError otherwise."""
        if not (math.isfinite(low) and math.isfinite(high) and low < floor < high):
            raise ValueError(f"floor is {floor}; give a number between {low} and {high}")
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"alpha is {alpha}; give a probability between 0 and 1")
        self.floor, self.alpha, self.low, self.high = floor, alpha, low, high
        self._scores: list[float] = []  # in [0, 1]
        self._above = np.zeros(_BETS.size)
        self._below = np.zeros(_BETS.size)
        self._verdict: Verdict = "undecided"

    def update(self, score: float) -> None:
        """Take one case, then look. ValueError for a score outside of the range."""
        if not self.low <= score <= self.high:
            raise ValueError(f"a score of {score} is outside of {self.low} to {self.high}")
        x, m = (score - self.low) / (self.high - self.low), self._unit(self.floor)
        self._scores.append(x)
        self._above += np.log1p(_BETS * (x / m - 1.0))
        self._below += np.log1p(_BETS * ((1.0 - x) / (1.0 - m) - 1.0))
        if self._verdict == "undecided":
            if self.log_e_pass >= -math.log(self.alpha):
                self._verdict = "passed"
            elif self.log_e_fail >= -math.log(self.alpha):
                self._verdict = "failed"

    def update_all(self, scores: Iterable[float]) -> None:
        """Take cases one after the other, with a look after each."""
        for score in scores:
            self.update(score)

    @property
    def n(self) -> int:
        """Cases so far."""
        return len(self._scores)

    @property
    def estimate(self) -> float | None:
        """The mean so far; None before the first case. It decides nothing."""
        return self._score(float(np.mean(self._scores))) if self._scores else None

    @property
    def log_e_pass(self) -> float:
        """Natural logarithm of the evidence against `mean <= floor`."""
        return _log_mean(self._above)

    @property
    def log_e_fail(self) -> float:
        """Natural logarithm of the evidence against `mean >= floor`."""
        return _log_mean(self._below)

    @property
    def verdict(self) -> Verdict:
        """`passed`, `failed` or `undecided`; the first two are final."""
        return self._verdict

    def lower_bound(self, confidence: float = 0.95) -> float:
        """One-sided: P(at some n the true mean is below it) <= 1 - confidence. ValueError outside (0, 1)."""
        return self._score(mean_lower_bound(self._scores, confidence))

    def upper_bound(self, confidence: float = 0.95) -> float:
        """One-sided: P(at some n the true mean is above it) <= 1 - confidence."""
        return self._score(1.0 - mean_lower_bound([1.0 - x for x in self._scores], confidence))

    def needs_more(self) -> int:
        """About how many more cases a verdict takes if they come as those before; 0 where it is decided.

        One case is added to those before, of which the share half-way between floor and the top is right, so that there
        is an answer before the first. A forecast for people and budgets; at most 1,000,000.
        """
        if self._verdict != "undecided":
            return 0
        m = self._unit(self.floor)
        hope = (1.0 + m) / 2
        values, counts = np.unique(np.array([*self._scores, 0.0, 1.0]), return_counts=True)
        weights = counts.astype(float)
        weights[0] -= hope  # of the two added cases 0 and 1, one is left
        weights[-1] -= 1.0 - hope
        share = weights / weights.sum()
        better = float(share @ values) >= m
        if not better:
            values, m = 1.0 - values, 1.0 - m
        with np.errstate(divide="ignore"):
            each = share @ np.log1p(_BETS[None, :] * (values[:, None] / m - 1.0))
        start, target = (self._above if better else self._below), -math.log(self.alpha)
        return fewest(lambda more: _log_mean(start + more * each) >= target)

    def _unit(self, score: float) -> float:
        return (score - self.low) / (self.high - self.low)

    def _score(self, unit: float) -> float:
        return self.low + unit * (self.high - self.low)


def mean_lower_bound(scores: ArrayLike, confidence: float, times: float = 1.0) -> float:
    """The confidence sequence's one-sided lower bound for the mean of `scores` in [0, 1]; 0 without scores.

    P(the mean is below it, at any of the looks) <= 1 - confidence. With `times` it is a forecast: the bound as it would
    be with so many times these cases. ValueError for a confidence outside (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence of {confidence} is impossible; give a number between 0 and 1")
    values, counts = np.unique(np.asarray(scores, dtype=np.float64), return_counts=True)
    if values.size == 0 or values[-1] <= 0.0:
        return 0.0
    target, weights = -math.log1p(-confidence), counts * times
    # K falls in m: infinite at 0, at most 1 at the sample's mean (the logarithm is concave).
    rejected, kept = 0.0, float(values @ counts / counts.sum())
    while kept - rejected > 1e-10:
        middle = (rejected + kept) / 2
        if log_capital(values, weights, middle) >= target:
            rejected = middle
        else:
            kept = middle
    return rejected


def log_capital(values: NDArray[np.float64], counts: ArrayLike, m: float) -> float:
    """log K(m) of the module's head, for `values` in [0, 1] that came `counts` times."""
    return _log_mean(np.asarray(counts) @ np.log1p(_BETS[None, :] * (values[:, None] / m - 1.0)))


def _log_mean(logs: NDArray[np.float64]) -> float:
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).mean()))
