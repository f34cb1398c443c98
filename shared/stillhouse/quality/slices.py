"""A floor under every slice: each label, length, group or week on its own, so that no average hides a bad one.

A floor under all slices holds if it holds under each, so *passed* needs no correction: every slice must pass at alpha.
*Failed* is said as soon as one slice fails, so the slices share alpha for that, the k-th seen getting alpha / (k (k +
1)): a student that is good enough everywhere is turned away with probability alpha at most, however many slices there
are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from stillhouse.quality.alpha import alpha_share
from stillhouse.quality.betting import ScoreTest
from stillhouse.quality.eprocess import AgreementTest, Verdict


@dataclass(frozen=True, slots=True)
class SliceFinding:
    """What the cases of one slice say. `needs_more` counts cases of all slices, at this one's share of them."""

    name: str
    verdict: Verdict
    floor: float
    estimate: float | None
    lower: float
    upper: float
    n: int
    evidence: float
    needs_more: int | None


def judge_slices(cases: Iterable[tuple[str, bool]], floor: float, alpha: float) -> list[SliceFinding]:
    """A finding for each slice of `cases` (slice, holds), in the order in which slices were first seen."""
    passing: dict[str, AgreementTest] = {}
    failing: dict[str, AgreementTest] = {}
    total = 0
    for name, holds in cases:
        total += 1
        if name not in passing:
            passing[name] = AgreementTest(floor, alpha)
            failing[name] = AgreementTest(floor, alpha_share(alpha, len(failing) + 1))
        passing[name].update(holds)
        failing[name].update(holds)
    return [_finding(name, test, failing[name], total) for name, test in passing.items()]


def judge_differences(cases: Iterable[tuple[str, int]], margin: float, alpha: float) -> list[SliceFinding]:
    """As `judge_slices` for pairs: -1, 0 or 1 in each case, whose mean must not be below -`margin`: non-inferiority."""
    passing: dict[str, ScoreTest] = {}
    failing: dict[str, ScoreTest] = {}
    total = 0
    for name, difference in cases:
        total += 1
        if name not in passing:
            passing[name] = ScoreTest(-margin, alpha, -1.0, 1.0)
            failing[name] = ScoreTest(-margin, alpha_share(alpha, len(failing) + 1), -1.0, 1.0)
        passing[name].update(difference)
        failing[name].update(difference)
    return [_finding(name, test, failing[name], total) for name, test in passing.items()]


def _finding(
    name: str, passing: AgreementTest | ScoreTest, failing: AgreementTest | ScoreTest, total: int
) -> SliceFinding:
    """`passing` decides whether the slice passed, `failing` whether it failed, each at its own level."""
    verdict: Verdict = "undecided"
    if passing.verdict == "passed":
        verdict = "passed"
    elif failing.verdict == "failed":
        verdict = "failed"
    more = None
    if verdict == "undecided":
        open_ = passing if passing.verdict == "undecided" else failing
        more = math.ceil(min(open_.needs_more(), 1_000_000) * total / passing.n)
    return SliceFinding(
        name=name,
        verdict=verdict,
        floor=passing.floor,
        estimate=passing.estimate,
        lower=passing.lower_bound(1 - passing.alpha),
        upper=passing.upper_bound(1 - passing.alpha),
        n=passing.n,
        evidence=math.exp(min(passing.log_e_pass, 700.0)),
        needs_more=more,
    )
