"""The offline gate's report: the verdict, its conditions, how the evidence grew, and who spent what of alpha."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from services.validator.cases import Outcome
from services.validator.offline import Judgement
from stillhouse.quality.eprocess import AgreementTest
from stillhouse.quality.figures import path_figure, reliability_figure
from stillhouse.quality.page import page, table

POINTS = 60  # of a line


def render(
    facts: Mapping[str, object],
    judgement: Judgement,
    outcomes: Sequence[Outcome],
    promised: Sequence[Outcome],
    threshold: float,
    epsilon: float,
    promise: str,
    alpha: float,
    account: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page. `facts` are shown as they are, in order; `promised` are the outcomes that the promise is about.

    No input text is on it.
    """
    lost = Counter(o.teacher for o in outcomes if o.teacher and o.loss(threshold))  # written answers are no labels
    asked = Counter(o.teacher for o in outcomes)
    paragraphs = [
        f"{judgement.reason}.",
        f"The promise: {promise}",
    ]
    if judgement.costs_usd is not None:
        paragraphs.append(f"The cases still needed cost about ${judgement.costs_usd:,.2f} of teacher calls.")
    losses = [(label, count, asked[label]) for label, count in lost.most_common(15)]
    spent = [(n, one["student_id"], f"{one['alpha']:.5f}", one["verdict"]) for n, one in enumerate(account, start=1)]
    return page(
        "Offline gate",
        judgement.verdict,
        paragraphs,
        judgement.conditions,
        facts,
        figures=[_agreement_path(promised, threshold, epsilon, alpha), reliability_figure(_bins(outcomes))],
        tables=[
            table("Labels with losses", ("teacher's label", "losses", "cases"), losses),
            table("The task's alpha account", ("", "student", "alpha spent", "verdict"), spent),
        ],
    )


def _agreement_path(outcomes: Sequence[Outcome], threshold: float, epsilon: float, alpha: float) -> str:
    """Agreement with its confidence sequence, case by case."""
    test = AgreementTest(1 - epsilon, alpha)
    every = max(1, len(outcomes) // POINTS)
    estimate, lower, upper = [], [], []
    for n, outcome in enumerate(outcomes, start=1):
        test.update(not outcome.loss(threshold))
        if n % every == 0 or n == len(outcomes):
            estimate.append((float(n), test.agreements / n))
            lower.append((float(n), test.lower_bound(1 - alpha)))
            upper.append((float(n), test.upper_bound(1 - alpha)))
    low = max(0.0, min(0.8, 1 - 4 * epsilon))
    lines = [("lower", lower), ("estimate", estimate), ("upper", upper)]
    return path_figure("Agreement after each case, with bounds that hold at every look", lines, 1 - epsilon, low, 1.0)


def _bins(outcomes: Sequence[Outcome], count: int = 10) -> list[tuple[float, float, int]]:
    bins: dict[int, list[Outcome]] = {}
    for outcome in outcomes:
        bins.setdefault(min(count - 1, int(outcome.confidence * count)), []).append(outcome)
    return [
        (sum(o.confidence for o in held) / len(held), sum(o.same() for o in held) / len(held), len(held))
        for _, held in sorted(bins.items())
    ]
