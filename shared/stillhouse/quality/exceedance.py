"""Whether a measured value has grown: how often new ones exceed a limit that few of the reference's did.

Robust, because a single value counts once however large it is, and because nothing is assumed about how values are
distributed. The limit is a tolerance limit: with confidence 1 - delta at most a share `rate` of what the reference
came from lies above it (Wilks 1941). Exceedances then go through the drift detector with p0 = `rate`, so that

    P(false alarm within N values) <= delta + N / average_run_length.

With a `margin` above 1 the limit is that many times higher: smaller rises are not looked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr

from stillhouse.quality.edetector import ErrorDetector


def tolerance_limit(values: ArrayLike, rate: float, delta: float) -> float | None:
    """The smallest of `values` that P(a new value > it) <= `rate` holds for, with confidence 1 - `delta`.

    None where there are too few of them: at least log(delta) / log(1 - rate) are needed. ValueError for a rate or delta
    outside (0, 1), or a NaN.
    """
    if not (0.0 < rate < 1.0 and 0.0 < delta < 1.0):
        raise ValueError(f"rate {rate} and delta {delta} must both lie between 0 and 1")
    ordered = np.sort(np.asarray(values, dtype=np.float64))[::-1]
    if np.isnan(ordered).any():
        raise ValueError("a value is NaN; leave out what was not measured")
    # The k-th largest (k = 0, 1, ...) fails where at most k of n values lie in the upper `rate`.
    fails = bdtr(np.arange(ordered.size), ordered.size, rate)
    allowed = np.flatnonzero(fails <= delta)
    return float(ordered[allowed[-1]]) if allowed.size else None


class RiseDetector:
    """Raises an alarm when values exceed `limit` more often than in a share `rate` of cases."""

    def __init__(self, limit: float, rate: float, average_run_length: float) -> None:
        """`limit` is finite (see `tolerance_limit`); the rest as for `ErrorDetector`. ValueError otherwise."""
        if not math.isfinite(limit):
            raise ValueError(f"the limit is {limit}; give a finite number")
        self.limit = limit
        self.exceeded = 0
        self._detector = ErrorDetector(rate, average_run_length)

    def update(self, value: float) -> None:
        """Take one value."""
        self.exceeded += value > self.limit
        self._detector.update(value > self.limit)

    @property
    def n(self) -> int:
        """Values so far."""
        return self._detector.n

    @property
    def alarm(self) -> bool:
        """Whether there are too many above the limit. It stays raised."""
        return self._detector.alarm

    @property
    def statistic(self) -> float:
        """The detector's, on a logarithmic scale."""
        return self._detector.statistic

    @property
    def level(self) -> float:
        """The alarm is raised when the statistic reaches it."""
        return self._detector.level

    def to_dict(self) -> dict[str, Any]:
        """The whole state as JSON types, exact to the bit."""
        return {"limit": self.limit, "exceeded": self.exceeded, "detector": self._detector.to_dict()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> RiseDetector:
        """The detector whose `to_dict` gave `state`. KeyError or ValueError for anything else."""
        detector = ErrorDetector.from_dict(state["detector"])
        rise = cls(float(state["limit"]), detector.p0, detector.average_run_length)
        rise.exceeded = int(state["exceeded"])
        rise._detector = detector
        return rise
