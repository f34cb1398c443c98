"""An anytime-valid test of agreement: look after every case, stop when it says so, and the error rate still holds.

H0: agreement <= floor, against it the mixture e-process

    E_n = integral over p in [floor, 1] of L_n(p) dp / ((1 - floor) L_n(floor)),   L_n(p) = p^k (1 - p)^(n - k)

with k agreements among n cases. At the floor its terms are likelihood ratios averaged over a uniform prior, hence a
martingale of mean 1 (below the floor, a supermartingale), and by Ville's inequality P(sup E_n >= 1/alpha) <= alpha
(Ramdas et al. 2210.01948, section 3). The reversed process, uniform over [0, floor], tests H0: agreement >= floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from scipy.special import betainc, betaln

Verdict = Literal["passed", "failed", "undecided"]


def log_evidence(agreements: int, n: int, floor: float) -> tuple[float, float]:
    """log E_n against `agreement <= floor`, and against `agreement >= floor`, after n cases."""
    a, b = agreements + 1, n - agreements + 1
    log_beta = float(betaln(a, b))
    at_floor = agreements * math.log(floor) + (n - agreements) * math.log1p(-floor)
    below = float(betainc(a, b, floor))
    # The complement by symmetry, not by 1 - x: it keeps its digits when it is tiny.
    above = float(betainc(b, a, 1.0 - floor))

    def log(x: float) -> float:
        return math.log(x) if x > 0.0 else -math.inf

    return (
        log(above) + log_beta - math.log1p(-floor) - at_floor,
        log(below) + log_beta - math.log(floor) - at_floor,
    )


@dataclass(slots=True)
class AgreementTest:
    """Is agreement above `floor`? Both errors have probability at most `alpha`, however often one looks.

    `floor` and `alpha` in (0, 1). The first verdict stands: cases after it are counted, and change nothing.
    """

    floor: float
    alpha: float
    n: int = 0
    agreements: int = 0
    verdict: Verdict = "undecided"
    log_e_pass: float = field(default=0.0)
    log_e_fail: float = field(default=0.0)

    def __post_init__(self) -> None:
        if not (0.0 < self.floor < 1.0 and 0.0 < self.alpha < 1.0):
            raise ValueError(f"floor and alpha must be between 0 and 1; got {self.floor} and {self.alpha}")

    def update(self, agrees: bool) -> Verdict:
        """Count one case and give the verdict."""
        self.n += 1
        self.agreements += agrees
        if self.verdict == "undecided":
            self.log_e_pass, self.log_e_fail = log_evidence(self.agreements, self.n, self.floor)
            level = -math.log(self.alpha)
            if self.log_e_pass >= level:
                self.verdict = "passed"
            elif self.log_e_fail >= level:
                self.verdict = "failed"
        return self.verdict

    def bounds(self) -> tuple[float, float]:
        """The values of agreement that the cases so far do not refute, at 1 - alpha and at every n at once.

        p is refuted when L_n averaged over all of [0, 1] is 1/alpha times L_n(p) (Robbins 1970).
        """
        if self.n == 0:
            return 0.0, 1.0
        k, misses = self.agreements, self.n - self.agreements
        limit = float(betaln(k + 1, misses + 1)) + math.log(self.alpha)

        def kept(p: float) -> bool:
            agree = k * math.log(p) if k else 0.0
            return agree + (misses * math.log1p(-p) if misses else 0.0) > limit

        best = k / self.n
        lower = 0.0 if k == 0 else _edge(kept, outside=1e-12, inside=min(best, 1 - 1e-12))
        upper = 1.0 if misses == 0 else _edge(kept, outside=1 - 1e-12, inside=max(best, 1e-12))
        return lower, upper

    def needs_more(self, limit: int = 100_000) -> int | None:
        """About how many more cases decide, if agreement stays as it was; None: more than `limit`, or no cases yet."""
        if self.verdict != "undecided":
            return 0
        if self.n == 0:
            return None
        rate = (self.agreements + 1) / (self.n + 2)
        level = -math.log(self.alpha)

        def decided(more: int) -> bool:
            after = log_evidence(self.agreements + round(rate * more), self.n + more, self.floor)
            return max(after) >= level

        if not decided(limit):
            return None
        low, high = 0, limit
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if decided(middle) else (middle, high)
        return high

    def to_dict(self) -> dict[str, Any]:
        """All of its state, for JSON."""
        return {"floor": self.floor, "alpha": self.alpha, "n": self.n, "agreements": self.agreements} | {
            "verdict": self.verdict,
            "log_e_pass": self.log_e_pass,
            "log_e_fail": self.log_e_fail,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> AgreementTest:
        """The test that `to_dict` described."""
        return cls(**state)


def _edge(kept: Any, *, outside: float, inside: float) -> float:
    """Where `kept` begins, by bisection; the answer errs towards `outside`."""
    for _ in range(60):
        middle = (outside + inside) / 2
        if kept(middle):
            inside = middle
        else:
            outside = middle
    return outside
