"""The offline gate: may this student leave the laboratory? A function of what it said about cases it never saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from stillhouse.economics import pays
from stillhouse.events import Condition
from stillhouse.quality.binomial import clopper_pearson
from stillhouse.quality.eprocess import AgreementTest
from stillhouse.tasks import Task

Verdict = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the student said about one case, and what the teacher had said."""

    case_id: str
    label: str
    confidence: float
    teacher: str

    def served(self, threshold: float) -> bool:
        """Whether the student would answer."""
        return self.confidence >= threshold

    def loss(self, threshold: float) -> bool:
        """Served and different: what the promise is about."""
        return self.served(threshold) and self.label != self.teacher


@dataclass(frozen=True, slots=True)
class Costs:
    """USD of one student prediction, and of everything spent to get this student."""

    student_usd: float
    overhead_usd: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """The gate's verdict with its conditions; `needs_more` cases where it is undecided."""

    verdict: Verdict
    reason: str
    n: int
    evidence: float
    estimate: float | None
    lower: float | None
    upper: float | None
    coverage: float | None
    needs_more: int | None
    final: bool
    conditions: list[Condition] = field(default_factory=list)


def judge(task: Task, threshold: float, outcomes: Sequence[Outcome], alpha: float, costs: Costs) -> Judgement:
    """Judge `outcomes` (in the order in which they were first seen) at a fixed threshold, spending `alpha`.

    Three conditions must all hold, so they need no correction among themselves: agreement of the cascade above
    1 - epsilon; coverage above the task's least; and a net saving at the coverage that is beyond doubt.
    """
    if task.criticality == "high":
        return _refused("the task is marked criticality = high: no student may serve it")
    cases = outcomes[: task.gate.max_cases]
    agreement = AgreementTest(1.0 - task.gate.epsilon, alpha)
    # A least coverage of 0 or 1 cannot be tested; 0 always holds, and 1 is as good as 1 in a million.
    least = min(task.gate.min_coverage, 1 - 1e-6)
    coverage = AgreementTest(least, alpha) if least > 0 else None
    for case in cases:
        if task.cascade.counts(case.served(threshold)):
            agreement.update(not case.loss(threshold))
        if coverage is not None:
            coverage.update(case.served(threshold))
    n, served = len(cases), sum(case.served(threshold) for case in cases)
    conditions = [
        _agreement(agreement, task.cascade.selective),
        _coverage(coverage, task.gate.min_coverage, served, n),
        _payback(task, served, n, costs),
    ]
    verdicts = {condition.verdict for condition in conditions}
    verdict: Verdict = "failed" if "failed" in verdicts else "undecided" if "undecided" in verdicts else "passed"
    final = verdict != "undecided" or n >= task.gate.max_cases
    needs_more = None if final else _needs_more(agreement, coverage, n, task.gate.max_cases - n)
    return Judgement(
        verdict=verdict,
        reason=_reason(verdict, final, conditions, needs_more),
        n=n,
        evidence=_finite_exp(agreement.log_e_pass),
        estimate=conditions[0].estimate,
        lower=conditions[0].lower,
        upper=conditions[0].upper,
        coverage=served / n if n else None,
        needs_more=needs_more,
        final=final,
        conditions=conditions,
    )


def _agreement(test: AgreementTest, selective: bool) -> Condition:
    lower, upper = test.lower_bound(1 - test.alpha), test.upper_bound(1 - test.alpha)
    return Condition(
        name="agreement",
        verdict=test.verdict,
        floor=test.floor,
        estimate=test.agreements / test.n if test.n else None,
        lower=lower,
        upper=upper,
        n=test.n,
        evidence=_finite_exp(test.log_e_pass),
        note=f"1 - {'P(different | served)' if selective else 'P(served and different), over all requests'}; "
        "anytime-valid bounds",
    )


def _coverage(test: AgreementTest | None, floor: float, served: int, n: int) -> Condition:
    lower, upper = clopper_pearson(served, n) if n else (0.0, 1.0)
    return Condition(
        name="coverage",
        verdict=test.verdict if test is not None else "passed",
        floor=floor,
        estimate=served / n if n else None,
        lower=lower,
        upper=upper,
        n=n,
        evidence=_finite_exp(test.log_e_pass) if test is not None else None,
        note="share of requests above the threshold; Clopper-Pearson bounds",
    )


def _payback(task: Task, served: int, n: int, costs: Costs) -> Condition:
    budget = task.budget

    def saving(share: float) -> float:
        usd = task.teacher.usd_per_call
        horizon = budget.horizon_requests
        return pays(share, task.audit.pi, usd, costs.student_usd, horizon, costs.overhead_usd).net_saving_usd

    if n == 0:
        return Condition(name="pays", verdict="undecided", floor=budget.min_saving_usd, note="no cases yet")
    lower, upper = clopper_pearson(served, n)
    at_least, at_most = saving(lower), saving(upper)
    verdict: Verdict = (
        "passed" if at_least >= budget.min_saving_usd else "failed" if at_most < budget.min_saving_usd else "undecided"
    )
    return Condition(
        name="pays",
        verdict=verdict,
        floor=budget.min_saving_usd,
        estimate=saving(served / n),
        lower=at_least,
        upper=at_most,
        n=n,
        note=f"net USD over {budget.horizon_requests:,} requests, after audits, training and gates",
    )


def _needs_more(agreement: AgreementTest, coverage: AgreementTest | None, n: int, left: int) -> int:
    """About how many more cases decide, at most what is left of the budget."""
    # A selective promise counts the served ones of `n` cases only.
    guesses = [
        math.ceil(test.needs_more() * max(1, n) / max(1, test.n))
        for test in (agreement, coverage)
        if test is not None and test.verdict == "undecided"
    ]
    # Where only the payback is open nobody can tell, and its bounds narrow slowly.
    return max(1, min(left, max(guesses, default=50)))


def _reason(verdict: Verdict, final: bool, conditions: list[Condition], needs_more: int | None) -> str:
    named = ", ".join(condition.name for condition in conditions if condition.verdict == verdict)
    if verdict == "passed":
        return "agreement, coverage and payback hold"
    if verdict == "failed":
        return f"does not hold: {named}"
    if final:
        return f"the case budget is spent and these are still open: {named}"
    return f"open: {named}; about {needs_more} more cases"


def _refused(reason: str) -> Judgement:
    return Judgement("failed", reason, 0, 0.0, None, None, None, None, None, True)


def _finite_exp(log_value: float) -> float:
    """e-values are unbounded; JSON numbers are not."""
    return math.exp(min(log_value, 700.0))
