"""Change detection on audits: has the loss rate risen above what was promised?

A Shiryaev-Roberts e-detector (Shin, Ramdas & Rinaldo 2203.03532, section 3): for each alternative rate q > p0 let
R_n = (1 + R_{n-1}) * L_n, R_0 = 0, with the likelihood ratio L_n = q/p0 for a loss and (1 - q)/(1 - p0) for none. While
the true rate is at most p0, every L_n has mean at most 1, so the mixture M_n = mean over q of R_n satisfies E[M_tau] <=
E[tau] for every stopping time: an alarm at M_n >= c comes after c audits or more on average (ARL >= c).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Alternatives, as multiples of p0 in the odds: small rises are found late, large ones at once.
ODDS_RATIOS: Final = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)


@dataclass(slots=True)
class ErrorDetector:
    """Alarms when the loss rate is above `p0`, at most once in `average_run_length` audits where it is not.

    `p0` in (0, 1); `average_run_length` >= 1, in audits. An alarm stands.
    """

    p0: float
    average_run_length: float
    n: int = 0
    losses: int = 0
    alarm: bool = False
    log_r: list[float] = field(default_factory=list)
    _log_loss: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _log_no_loss: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.p0 < 1.0 or self.average_run_length < 1.0:
            raise ValueError(
                f"p0 must be in (0, 1) and average_run_length at least 1; got {self.p0} and {self.average_run_length}"
            )
        odds = np.array(ODDS_RATIOS) * self.p0 / (1.0 - self.p0)
        alternatives = odds / (1.0 + odds)
        self._log_loss = np.log(alternatives / self.p0)
        self._log_no_loss = np.log1p(-alternatives) - math.log1p(-self.p0)
        if not self.log_r:
            self.log_r = [-math.inf] * len(alternatives)

    def update(self, loss: bool) -> bool:
        """Count one audit and say whether the alarm is on."""
        self.n += 1
        self.losses += loss
        if not self.alarm:
            grown = np.logaddexp(0.0, np.array(self.log_r)) + (self._log_loss if loss else self._log_no_loss)
            self.log_r = grown.tolist()
            self.alarm = self.statistic >= self.level
        return self.alarm

    @property
    def statistic(self) -> float:
        """log M_n; minus infinity before the first audit."""
        return float(np.logaddexp.reduce(self.log_r)) - math.log(len(self.log_r))

    @property
    def level(self) -> float:
        """The alarm is on from here: the logarithm of the average run length."""
        return math.log(self.average_run_length)

    def to_dict(self) -> dict[str, Any]:
        """All of its state, for JSON (minus infinity as None)."""
        return {
            "p0": self.p0,
            "average_run_length": self.average_run_length,
            "n": self.n,
            "losses": self.losses,
            "alarm": self.alarm,
            "log_r": [None if math.isinf(value) else value for value in self.log_r],
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> ErrorDetector:
        """The detector that `to_dict` described."""
        return cls(**(state | {"log_r": [-math.inf if value is None else value for value in state["log_r"]]}))
