"""Which of two answers do people prefer? Tests on pairs, shown in random order.

*Win rate*: over the pairs that somebody won, the share that the student won, against a floor: the e-process of
`stillhouse.quality.eprocess`. Ties say nothing about it and are counted beside it. *Non-inferiority*: over all pairs,
wins less losses, each in {-1, 0, 1}, must not fall below a margin: a betting confidence sequence
(`stillhouse.quality.betting`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from scipy.stats import binomtest

from stillhouse.quality.betting import ScoreTest
from stillhouse.quality.eprocess import AgreementTest

Outcome = Literal["win", "loss", "tie"]

UNFAIR = 0.001  # an order this unlikely in a fair draw was not drawn


def win_rate(outcomes: Iterable[Outcome], floor: float, alpha: float) -> AgreementTest:
    """The test that wins among decided pairs are above `floor`; 0.5 for superiority."""
    test = AgreementTest(floor, alpha)
    for outcome in outcomes:
        if outcome != "tie":
            test.update(outcome == "win")
    return test


def non_inferiority(outcomes: Iterable[Outcome], margin: float, alpha: float) -> ScoreTest:
    """The test that wins less losses, over all pairs, are above -`margin`."""
    test = ScoreTest(-margin, alpha, -1.0, 1.0)
    test.update_all({"win": 1.0, "loss": -1.0, "tie": 0.0}[outcome] for outcome in outcomes)
    return test


def drawn_fairly(student_first: Iterable[bool]) -> bool:
    """Whether the order in which the two answers were shown may have been drawn at random, half and half."""
    shown = list(student_first)
    return not shown or float(binomtest(sum(shown), len(shown)).pvalue) >= UNFAIR
