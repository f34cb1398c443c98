"""The offline gate: may this student leave the laboratory? A function of what it said about cases it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from services.validator.cases import Costs, Facts, Outcome
from services.validator.conditions import conditions_of
from stillhouse.events import Condition
from stillhouse.tasks import Task

Verdict = Literal["passed", "failed", "undecided"]


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
    costs_usd: float | None = None


def judge(
    task: Task, threshold: float, outcomes: Sequence[Outcome], alpha: float, costs: Costs, facts: Facts | None = None
) -> Judgement:
    """Judge `outcomes` (in the order in which they were first seen) at a fixed threshold, spending `alpha`.

    All conditions must hold, so they need no correction among themselves: agreement of the cascade above 1 - epsilon,
    coverage above the task's least, a net saving at the coverage that is beyond doubt, and what the task lists.
    """
    facts = facts or Facts()
    refusal = _refusal(task, facts)
    if refusal is not None:
        return Judgement("failed", refusal, 0, 0.0, None, None, None, None, None, True)
    cases = outcomes[: task.gate.max_cases]
    n, left = len(cases), task.gate.max_cases - len(cases)
    by_cases = [_priced(one, left, task) for one in conditions_of(task, threshold, cases, alpha, costs, facts)]
    conditions = [*by_cases, *facts.opinions]
    verdicts = {condition.verdict for condition in conditions}
    verdict: Verdict = "failed" if "failed" in verdicts else "undecided" if "undecided" in verdicts else "passed"
    # People may still be asked when no case is left to be judged.
    waits = facts.unasked > 0 and all(one.verdict != "undecided" for one in by_cases)
    final = verdict != "undecided" or (left <= 0 and not waits)
    open_ = [condition.needs_more or 1 for condition in conditions if condition.verdict == "undecided"]
    needs_more = None if final else max(open_)
    agreement = conditions[0]
    return Judgement(
        verdict=verdict,
        reason=_reason(verdict, final, conditions, needs_more),
        n=n,
        evidence=agreement.evidence or 0.0,
        estimate=agreement.estimate,
        lower=agreement.lower,
        upper=agreement.upper,
        coverage=sum(case.served(threshold) for case in cases) / n if n else None,
        needs_more=needs_more,
        final=final,
        conditions=conditions,
        costs_usd=None
        if needs_more is None
        else max(one.costs_usd or 0.0 for one in conditions if one.verdict == "undecided"),
    )


def _refusal(task: Task, facts: Facts) -> str | None:
    """Why nothing is judged at all, where that is so."""
    if task.criticality == "high":
        return "the task is marked criticality = high: no student may serve it"
    if facts.leaked:
        cases = "1 golden case" if facts.leaked == 1 else f"{facts.leaked} golden cases"
        return f"the student was trained on {cases}, or near-duplicates of them: train anew without"
    if facts.teacher is not None and facts.teacher.verdict == "failed":
        test = facts.teacher
        return (
            f"the teacher agrees with itself on {test.agreements} of {test.n} questions that it was asked twice, which "
            f"is below {test.floor:.3f}: nobody can agree with it more often"
        )
    return None


def _priced(condition: Condition, left: int, task: Task) -> Condition:
    """An open condition says what is still needed, at most what is left of the budget, and what that costs."""
    if condition.verdict != "undecided" or left <= 0:
        return condition.model_copy(update={"needs_more": None})
    # Where nobody can tell, look again soon.
    needs_more = max(1, min(left, condition.needs_more or 50))
    return condition.model_copy(update={"needs_more": needs_more, "costs_usd": needs_more * task.teacher.usd_per_call})


def _reason(verdict: Verdict, final: bool, conditions: list[Condition], needs_more: int | None) -> str:
    named = ", ".join(condition.name for condition in conditions if condition.verdict == verdict)
    if verdict == "passed":
        return "agreement, coverage and payback hold" if len(conditions) == 3 else f"all hold: {named}"
    if verdict == "failed":
        return f"does not hold: {named}"
    if final:
        return f"the case budget is spent and these are still open: {named}"
    return f"open: {named}; about {needs_more} more cases"
