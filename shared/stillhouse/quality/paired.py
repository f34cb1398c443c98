"""Two students on the same cases: which of them agrees more with the teacher, and is that chance?

Only cases that one has right and the other wrong speak of a difference. McNemar's exact test asks whether they fall on
both sides equally (binomial, two-sided); it holds for one look at a number of cases fixed beforehand. The e-process on
the same discordant pairs (`stillhouse.quality.wins`) holds whenever one looks. The interval of the difference is
Newcombe's hybrid score interval for paired shares (1998, method 10): approximate, for display.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from stillhouse.quality.binomial import wilson
from stillhouse.quality.eprocess import AgreementTest


@dataclass(frozen=True, slots=True)
class Paired:
    """What the pairs say. `difference` is A's agreement less B's; `low` and `high` its 95 % interval.

    `both`, `only_a`, `only_b`, `neither` count who was right. `p_value` is McNemar's. `e_a` and `e_b` are the evidence
    that A, or B, wins more than half of the discordant pairs; 20 or more is evidence at 5 % at any time.
    """

    n: int
    both: int
    only_a: int
    only_b: int
    neither: int
    difference: float
    low: float
    high: float
    p_value: float
    e_a: float
    e_b: float

    @property
    def agreement_a(self) -> float:
        """A's share of right answers."""
        return (self.both + self.only_a) / self.n

    @property
    def agreement_b(self) -> float:
        """B's share of right answers."""
        return (self.both + self.only_b) / self.n


def compare_pairs(pairs: Iterable[tuple[bool, bool]]) -> Paired:
    """The comparison of `pairs` (A is right, B is right). ValueError without any."""
    counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for a, b in pairs:
        counts[bool(a), bool(b)] += 1
    both, only_a, only_b, neither = counts.values()
    n = both + only_a + only_b + neither
    if n == 0:
        raise ValueError("there is no case that both students answered")
    low, high = newcombe(both, only_a, only_b, neither)
    test = AgreementTest(0.5, 0.05)
    test.update_many(only_a, only_b)
    return Paired(
        n=n,
        both=both,
        only_a=only_a,
        only_b=only_b,
        neither=neither,
        difference=(only_a - only_b) / n,
        low=low,
        high=high,
        p_value=mcnemar(only_a, only_b),
        e_a=math.exp(min(test.log_e_pass, 700.0)),
        e_b=math.exp(min(test.log_e_fail, 700.0)),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided probability of discordant pairs at least as uneven, if both students were equally good."""
    return 1.0 if only_a + only_b == 0 else float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def newcombe(both: int, only_a: int, only_b: int, neither: int, confidence: float = 0.95) -> tuple[float, float]:
    """(lo, hi) of A's share less B's on the same cases (Newcombe 1998, method 10). ValueError without cases."""
    n = both + only_a + only_b + neither
    if n == 0:
        raise ValueError("there is no case")
    share_a, share_b = (both + only_a) / n, (both + only_b) / n
    (low_a, high_a), (low_b, high_b) = (wilson(both + only, n, confidence) for only in (only_a, only_b))
    product = float(both * neither - only_a * only_b)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if product > 0:
        product = max(0.0, product - n / 2)  # the paper's correction for continuity
    phi = product / math.sqrt(margins) if margins else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    difference = share_a - share_b
    low = difference - reach(share_a - low_a, high_b - share_b)
    high = difference + reach(high_a - share_a, share_b - low_b)
    return max(-1.0, low), min(1.0, high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979), in the order given: below alpha is a difference, whatever else was tested."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
