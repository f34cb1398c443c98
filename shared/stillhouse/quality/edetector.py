"""The drift detector: a Shiryaev-Roberts mixture over alternative error rates, on a stream of losses.

For each alternative rate p1 > p0 the statistic M <- (1 + M) * L(x), L(x) being the likelihood ratio of one audit under
p1 and p0, sums the evidence of a change over every audit at which it may have begun. The mixture's M with weights that
sum to 1 is an e-detector (Shin, Ramdas & Rinaldo, arXiv 2203.03532): while the rate is at most
p0, M - n is a supermartingale. Two promises follow for an alarm at M >= A, both without any assumption about when
people look:

    mean number of audits to a false alarm >= A          P(false alarm within N audits) <= N / A

so that A = 1,000,000 holds false alarms under 1 % per 10,000 audits. At p0 = 5 %, after 500 audits at p0, it then takes
480 audits on average to notice 10 % (530 from the first audit) and 53 to notice 25 %. A = 100,000 takes 360 (400) and
42, and holds false alarms under 10 % per 10,000 audits (5.6 % in simulation). These are for a student right at p0; one
well below it alarms far more rarely.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALTERNATIVES = 12
_CAP = 1e200  # far above every level; keeps a long stream of losses from overflowing


class ErrorDetector:
    """Raises an alarm when the rate of losses has risen above `p0`; at most once in `average_run_length` by chance.

    Update it with every audit, in order. Memory is constant; `update` takes some microseconds.
    """

    def __init__(self, p0: float, average_run_length: float) -> None:
        """`p0` in (0, 1): the rate that is promised. `average_run_length` >= 1, in audits. ValueError otherwise."""
        if not 0.0 < p0 < 1.0:
            raise ValueError(f"p0 is {p0}; give a rate between 0 and 1")
        if not (average_run_length >= 1.0 and math.isfinite(average_run_length)):
            raise ValueError(f"average_run_length is {average_run_length}; give a number of audits from 1 up")
        self.p0 = p0
        self.average_run_length = average_run_length
        self._factors = likelihood_ratios(p0)
        self._state = np.ones(_ALTERNATIVES)
        self._n = 0
        self._alarm = False

    def update(self, loss: bool) -> None:
        """Take one audit. `loss`: served by the student and different from the teacher."""
        self._state = advance(self._state, self._factors[int(loss)])
        self._n += 1
        self._alarm = self._alarm or self.statistic >= self.level

    @property
    def n(self) -> int:
        """Audits so far."""
        return self._n

    @property
    def statistic(self) -> float:
        """log(1 + M), M being the detector's evidence: 0 at the start, finite always, stops growing at 460."""
        return math.log(float(self._state.sum()) / _ALTERNATIVES)

    @property
    def level(self) -> float:
        """The alarm is raised when the statistic reaches it: log(1 + average_run_length)."""
        return math.log1p(self.average_run_length)

    @property
    def alarm(self) -> bool:
        """Whether the level was ever reached. It stays raised: a new student gets a new detector."""
        return self._alarm

    def to_dict(self) -> dict[str, Any]:
        """The whole state as JSON types, exact to the bit."""
        return {
            "p0": self.p0,
            "average_run_length": self.average_run_length,
            "n": self._n,
            "alarm": self._alarm,
            "state": [float(value) for value in self._state],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> ErrorDetector:
        """The detector whose `to_dict` gave `state`. KeyError or ValueError for anything else."""
        detector = cls(float(state["p0"]), float(state["average_run_length"]))
        values: Sequence[float] = state["state"]
        if len(values) != _ALTERNATIVES:
            raise ValueError(f"state has {len(values)} values, not {_ALTERNATIVES}; rebuild it from the audits")
        detector._state = np.asarray(values, dtype=np.float64)
        detector._n = int(state["n"])
        detector._alarm = bool(state["alarm"])
        return detector


def likelihood_ratios(p0: float) -> NDArray[np.float64]:
    """L(x) for x = 0, 1 and every alternative, shape (2, alternatives).

    The alternatives multiply the odds of p0 by 1.5 to 20, evenly in the logarithm: the delay for a given rate
    depends on how near an alternative lies in odds, and rates that hardly differ from p0 are not worth an alarm.
    """
    odds = p0 / (1.0 - p0) * np.geomspace(1.5, 20.0, _ALTERNATIVES)
    p1 = odds / (1.0 + odds)
    return np.stack([(1.0 - p1) / (1.0 - p0), p1 / p0])


def advance(state: NDArray[np.float64], ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """One step of 1 + M for every alternative (last axis), and for any number of streams (axes before it)."""
    return np.minimum(1.0 + state * ratios, _CAP)
