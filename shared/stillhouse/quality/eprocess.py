"""The gate's test of agreement: look after every case, stop whenever it is decided, and the error rates still hold.

For a cases that agree and b that do not, L(p) = p^a (1-p)^b. The evidence that agreement is above `floor` f is

    E_pass = integral over p in [f, 1] of L(p) dp / ((1 - f) L(f)),

a mixture of likelihood ratios. For every agreement <= f it is a non-negative supermartingale that starts at 1, so by
Ville's inequality P(E_pass ever reaches 1/alpha) <= alpha (Robbins 1970; Howard et al., arXiv 1810.08240; Ramdas
et al., arXiv 2210.01948). `E_fail` is the same thing reversed: the mixture over [0, f] against agreement >= f. L is
log-concave, so it can exceed L(f) on one side of f only: the two can never both be above 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from scipy.special import betaincc, betaln

from stillhouse.quality.forecast import fewest

Verdict = Literal["passed", "failed", "undecided"]

_LENTZ_TINY = 1e-300


class AgreementTest:
    """Tests whether agreement is above `floor`, with chance `alpha` at most of either wrong verdict.

    *passed*: P(passed, ever) <= alpha if agreement <= floor. *failed*: P(failed, ever) <= alpha if agreement >= floor.
    A verdict stays, whatever comes later. Memory is constant; `update` takes about ten microseconds.
    With floor 0.95 and alpha 0.05, half of all tests are over after about 600, 245 and 135 cases where the true
    agreement is 97, 98 and 99 %.
    """

    def __init__(self, floor: float, alpha: float) -> None:
        """`floor` and `alpha` in (0, 1); ValueError otherwise."""
        if not 0.0 < floor < 1.0:
            raise ValueError(f"floor is {floor}; give a share between 0 and 1")
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"alpha is {alpha}; give a probability between 0 and 1")
        self.floor = floor
        self.alpha = alpha
        self._agree = 0
        self._disagree = 0
        self._log_e_pass = 0.0
        self._log_e_fail = 0.0
        self._verdict: Verdict = "undecided"

    def update(self, agrees: bool) -> None:
        """Take one case, then look."""
        self.update_many(1, 0) if agrees else self.update_many(0, 1)

    def update_many(self, agree: int, disagree: int) -> None:
        """Take a batch of cases, then look once: their order within the batch does not matter.

        Looking less often costs time to a verdict, never validity. ValueError for negative counts.
        """
        if agree < 0 or disagree < 0:
            raise ValueError(f"{agree} and {disagree} cases cannot be added; counts start at 0")
        self._agree += agree
        self._disagree += disagree
        self._log_e_pass = log_evidence_above(self._agree, self._disagree, self.floor)
        self._log_e_fail = log_evidence_above(self._disagree, self._agree, 1.0 - self.floor)
        if self._verdict == "undecided":
            if self._log_e_pass >= -math.log(self.alpha):
                self._verdict = "passed"
            elif self._log_e_fail >= -math.log(self.alpha):
                self._verdict = "failed"

    @property
    def n(self) -> int:
        """Cases so far."""
        return self._agree + self._disagree

    @property
    def agreements(self) -> int:
        """Cases so far that agree."""
        return self._agree

    @property
    def estimate(self) -> float | None:
        """Observed agreement; None before the first case. It decides nothing."""
        return self._agree / self.n if self.n else None

    @property
    def log_e_pass(self) -> float:
        """Natural logarithm of the evidence against `agreement <= floor`, over all cases so far."""
        return self._log_e_pass

    @property
    def log_e_fail(self) -> float:
        """Natural logarithm of the evidence against `agreement >= floor`, over all cases so far."""
        return self._log_e_fail

    @property
    def verdict(self) -> Verdict:
        """`passed`, `failed` or `undecided`; the first two are final."""
        return self._verdict

    def bounds(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided confidence sequence (lo, hi): P(at some n the true agreement is outside) <= 1 - confidence.

        Each side spends half. ValueError for a confidence outside [0.5, 1).
        """
        one_sided = (1.0 + confidence) / 2
        return self.lower_bound(one_sided), self.upper_bound(one_sided)

    def lower_bound(self, confidence: float = 0.95) -> float:
        """One-sided: P(at some n the true agreement is below it) <= 1 - confidence.

        The gate's own test, inverted: the verdict is `passed` on the first look at which
        `lower_bound(1 - alpha) >= floor`. ValueError for a confidence outside [0.75, 1).
        """
        return _lower_bound(self._agree, self._disagree, confidence)

    def upper_bound(self, confidence: float = 0.95) -> float:
        """One-sided: P(at some n the true agreement is above it) <= 1 - confidence; see `lower_bound`."""
        return 1.0 - _lower_bound(self._disagree, self._agree, confidence)

    def needs_more(self, estimate: float | None = None) -> int:
        """About how many more cases a verdict takes if agreement goes on at `estimate`; 0 where it is decided.

        `estimate` is by default the observed share with one case added that lies half-way between floor and 1, so
        that there is an answer before the first case. It is a forecast for people and budgets, not a promise: cases
        that follow `estimate` exactly, which some two thirds of tests beat. At most 1,000,000, which is what an
        agreement equal to the floor gets. ValueError outside [0, 1].
        """
        if self._verdict != "undecided":
            return 0
        if estimate is None:
            estimate = (self._agree + (1.0 + self.floor) / 2) / (self.n + 1)
        if not 0.0 <= estimate <= 1.0:
            raise ValueError(f"estimate is {estimate}; agreement lies between 0 and 1")
        target = -math.log(self.alpha)

        def decided(more: int) -> bool:
            agree = self._agree + more * estimate
            disagree = self._disagree + more * (1.0 - estimate)
            if estimate >= self.floor:
                return log_evidence_above(agree, disagree, self.floor) >= target
            return log_evidence_above(disagree, agree, 1.0 - self.floor) >= target

        return fewest(decided)

    def to_dict(self) -> dict[str, Any]:
        """The whole state as JSON types."""
        return {
            "floor": self.floor,
            "alpha": self.alpha,
            "agree": self._agree,
            "disagree": self._disagree,
            "verdict": self._verdict,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> AgreementTest:
        """The test whose `to_dict` gave `state`. KeyError or ValueError for anything else."""
        test = cls(float(state["floor"]), float(state["alpha"]))
        test.update_many(int(state["agree"]), int(state["disagree"]))
        if state["verdict"] not in ("passed", "failed", "undecided"):
            raise ValueError(f"verdict is {state['verdict']!r}; an agreement test passed, failed or is undecided")
        # The saved one: a verdict that was reached earlier outlasts evidence that has since sunk.
        test._verdict = state["verdict"]
        return test


def log_evidence_above(agree: float, disagree: float, floor: float) -> float:
    """log E_pass of the module's head: evidence that agreement is above `floor`. Counts may be fractions.

    Evidence that agreement is *below* floor is this with agree and disagree exchanged and 1 - floor.
    """
    if agree == disagree == 0:
        return 0.0
    mass = float(betaincc(agree + 1.0, disagree + 1.0, floor))
    if mass > 1e-280:
        return (
            math.log(mass)
            + float(betaln(agree + 1.0, disagree + 1.0))
            - agree * math.log(floor)
            - (disagree + 1.0) * math.log1p(-floor)
        )
    # Hopelessly below the floor: the mass underflows, but E is floor / (b + 1) times the incomplete beta function's
    # continued fraction, which has no small number in it and converges at once out here.
    return math.log(floor / (disagree + 1.0) * _beta_fraction(disagree + 1.0, agree + 1.0, 1.0 - floor))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Continued fraction of the incomplete beta function (DLMF 8.17.22) by Lentz's method, for x < a / (a + b)."""
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        factor = 1.0
        for term in (even, odd):
            d = 1.0 / ((1.0 + term * d) or _LENTZ_TINY)
            c = (1.0 + term / c) or _LENTZ_TINY
            factor = d * c
            value *= factor
        if abs(factor - 1.0) < 1e-13:
            break
    return value


def _lower_bound(agree: int, disagree: int, confidence: float) -> float:
    """The largest floor that the evidence rejects at level 1 - confidence, and so every floor below it; 0 if none."""
    if not 0.75 <= confidence < 1.0:
        raise ValueError("a bound of this confidence is not offered; ask for 0.75 to 1 on a side, 0.5 to 1 on both")
    if agree == 0:
        return 0.0
    target = -math.log1p(-confidence)
    # E falls from infinity at floor 0 to at most e < 1 / 0.25 at a / (n + 1), so there is exactly one crossing between
    # them; above that point nothing is rejected.
    rejected, kept = 0.0, agree / (agree + disagree + 1.0)
    for _ in range(60):
        middle = (rejected + kept) / 2
        if log_evidence_above(agree, disagree, middle) >= target:
            rejected = middle
        else:
            kept = middle
        if kept - rejected < 1e-12:
            break
    return rejected
