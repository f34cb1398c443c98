"""The gate of answers in free words: conditions over cases that a judge and people looked at, each with error control.

Only cases that were drawn at random measure anything. Every bound holds at every look, so a file may grow and be judged
again. What nobody looked at is open, never passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from stillhouse.events import Condition
from stillhouse.quality.betting import ScoreTest
from stillhouse.quality.cost_reduction import reduction
from stillhouse.quality.eprocess import AgreementTest, Verdict
from stillhouse.quality.forecast import fewest
from stillhouse.quality.grounding import Catalogue, ungrounded
from stillhouse.quality.prediction_powered import powered_bounds, powered_mean
from stillhouse.quality.wins import Outcome, drawn_fairly, non_inferiority, win_rate
from stillhouse.tasks.responses import (
    Agreement,
    Cost,
    Hallucination,
    NonInferiority,
    Preference,
    Prices,
    ResponseGate,
    WinRate,
)

Winner = Literal["student", "other", "tie"]
Same = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Case:
    """One case: what was asked and given, what each model said, and what a judge and people found.

    `preference` is about student and teacher, `winner` about student and base; `other` is the one that is not the
    student.
    """

    id: str
    input: str
    student: str
    context: tuple[str, ...] = ()
    teacher: str | None = None
    base: str | None = None
    preference: Winner | None = None  # the judge's
    human_preference: Winner | None = None
    winner: Winner | None = None  # people's
    student_first: bool | None = None
    hallucinated: bool | None = None  # people's
    grounded: bool | None = None  # what an NLI model or a judge found; None: the rules look
    teacher_again: str | None = None
    student_usd: float | None = None
    teacher_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """One verdict over all conditions; where it is undecided, how many more cases and USD decide about."""

    verdict: Verdict
    reason: str
    conditions: list[Condition] = field(default_factory=list)
    needs_more: int | None = None
    costs_usd: float | None = None


def judge_responses(cases: Sequence[Case], gate: ResponseGate, same: Same) -> Findings:
    """Judge `cases`, in the order in which they came. ValueError where costs are given without their largest."""
    noisy = _teacher_noise(cases, gate, same)
    if noisy is not None:
        return Findings("failed", noisy)
    conditions = judge_answers(cases, gate, same)
    verdicts = {one.verdict for one in conditions}
    verdict: Verdict = "failed" if "failed" in verdicts else "undecided" if "undecided" in verdicts else "passed"
    named = ", ".join(one.name for one in conditions if one.verdict == verdict)
    if verdict != "undecided":
        return Findings(verdict, f"{'all hold' if verdict == 'passed' else 'does not hold'}: {named}", conditions)
    open_ = [one for one in conditions if one.verdict == "undecided"]
    # The same cases serve several conditions: the dearest decides.
    more = max(one.needs_more or 0 for one in open_)
    return Findings(
        verdict,
        f"open: {named}; about {more:,} more cases",
        conditions,
        more,
        max(one.costs_usd or 0.0 for one in open_),
    )


def judge_answers(cases: Sequence[Case], gate: ResponseGate, same: Same) -> list[Condition]:
    """Each condition of `gate` over `cases`, without a verdict over all: part of a gate that judges more."""
    return [_condition(wanted, cases, gate, same) for wanted in gate.condition]


def _condition(wanted: object, cases: Sequence[Case], gate: ResponseGate, same: Same) -> Condition:
    match wanted:
        case Agreement():
            return _agreement(wanted, cases, gate, same)
        case Preference():
            return _preference(wanted, cases, gate)
        case WinRate() | NonInferiority():
            return _wins(wanted, cases, gate)
        case Hallucination():
            return _hallucination(wanted, cases, gate)
        case Cost():
            return _cost(wanted, cases, gate)
    raise TypeError(f"no such condition: {wanted!r}")


def _teacher_noise(cases: Sequence[Case], gate: ResponseGate, same: Same) -> str | None:
    """Why agreement is not to be had, where the teacher does not agree with itself."""
    floor = next((one.floor for one in gate.condition if isinstance(one, Agreement)), None)
    if floor is None:
        return None
    test = AgreementTest(floor, gate.alpha)
    for case in cases:
        if case.teacher is not None and case.teacher_again is not None:
            test.update(same(case.teacher_again, case.teacher))
    if test.verdict != "failed":
        return None
    return (
        f"the teacher agrees with itself on {test.agreements} of {test.n} cases, which is below {floor:g}: nobody can "
        "agree with it more often"
    )


def _agreement(wanted: Agreement, cases: Sequence[Case], gate: ResponseGate, same: Same) -> Condition:
    test = AgreementTest(wanted.floor, gate.alpha)
    for case in cases:
        if case.teacher is not None:
            test.update(same(case.student, case.teacher))
    note = "same answer as the teacher's, by the comparator"
    return _tested("agreement", test, gate, note, _teacher_usd(cases, gate.prices))


def _wins(wanted: WinRate | NonInferiority, cases: Sequence[Case], gate: ResponseGate) -> Condition:
    judged = [case for case in cases if case.winner is not None]
    outcomes = [_outcome(case.winner) for case in judged]
    test: AgreementTest | ScoreTest
    if isinstance(wanted, WinRate):
        test = win_rate(outcomes, wanted.floor, gate.alpha)
        name, note = (
            "win rate",
            f"of pairs that student or base won, by people; {outcomes.count('tie')} ties beside them",
        )
    else:
        test = non_inferiority(outcomes, wanted.margin, gate.alpha)
        name, note = "non-inferiority", "wins less losses against the base, over all pairs, by people"
    orders = [case.student_first for case in judged if case.student_first is not None]
    if not orders:
        note += "; the order in which answers were shown is not recorded"
    share = len(judged) / test.n if test.n else 1.0
    condition = _tested(name, test, gate, note, _review_usd(gate.prices), share)
    if drawn_fairly(orders):
        return condition
    shown = f"the student was shown first in {sum(orders)} of {len(orders)}: that order was not drawn at random"
    return condition.model_copy(update={"verdict": "undecided", "note": f"{note}; {shown}", "needs_more": len(judged)})


def _preference(wanted: Preference, cases: Sequence[Case], gate: ResponseGate) -> Condition:
    """The judge speaks about all cases, people correct it; without a judge people alone decide."""
    note = "student's answer at least as good as the teacher's"
    reviewed = [case for case in cases if case.human_preference is not None]
    if not any(case.preference for case in cases):
        test = AgreementTest(wanted.floor, gate.alpha)
        for case in reviewed:
            test.update(case.human_preference != "other")
        return _tested("preference", test, gate, f"{note}, by people", _review_usd(gate.prices))
    both = [case for case in reviewed if case.preference is not None]
    return _powered(
        "preference",
        gate,
        everything=[float(case.preference != "other") for case in cases if case.preference is not None],
        people=[float(case.human_preference != "other") for case in both],
        machine=[float(case.preference != "other") for case in both],
        floor=wanted.floor,
        note=f"{note}, by the judge on all and by people on {len(both)}",
    )


def _hallucination(wanted: Hallucination, cases: Sequence[Case], gate: ResponseGate) -> Condition:
    catalogue = Catalogue.read(wanted.catalogue) if wanted.catalogue is not None else None
    found: dict[str, bool] = {}
    for case in cases:
        if case.grounded is not None:
            found[case.id] = not case.grounded
        elif wanted.check == "rules" and (case.context or catalogue is not None):
            found[case.id] = bool(ungrounded(case.student, (*case.context, case.input), catalogue))
    checked = [case for case in cases if case.id in found]
    if not checked:
        reviewed = [case for case in cases if case.hallucinated is not None]
        test = AgreementTest(1.0 - wanted.ceiling, gate.alpha)
        for case in reviewed:
            test.update(not case.hallucinated)
        good = _tested(
            "hallucination", test, gate, "by people; no context was given to check", _review_usd(gate.prices)
        )
        return _upside_down(good, wanted.ceiling)
    told = sum(case.grounded is not None for case in checked)
    note = "answers with a number or name that was not given" if told < len(checked) else "answers without ground"
    by = f", of which a model told {told}" if told else ""
    both = [case for case in checked if case.hallucinated is not None]
    good = _powered(
        "hallucination",
        gate,
        everything=[float(not found[case.id]) for case in checked],
        people=[float(not case.hallucinated) for case in both],
        machine=[float(not found[case.id]) for case in both],
        floor=1.0 - wanted.ceiling,
        note=f"{note}: the check found {sum(found.values())} in {len(checked)}{by}; {len(both)} reviewed by people",
    )
    return _upside_down(good, wanted.ceiling)


def _powered(
    name: str,
    gate: ResponseGate,
    *,
    everything: list[float],
    people: list[float],
    machine: list[float],
    floor: float,
    note: str,
) -> Condition:
    """A share that a machine sees everywhere and people on a random part; without people it stays open."""
    lower, upper = powered_bounds(everything, people, machine, gate.alpha)
    verdict: Verdict = "passed" if lower >= floor else "failed" if upper < floor else "undecided"
    estimate = float(np.mean(people)) if people else None
    if len(people) > 1:
        rest = _without(everything, machine)
        estimate = min(1.0, max(0.0, powered_mean(people, machine, rest).estimate))
    more = None
    if verdict == "undecided":
        more = _reviews_needed(people, everything, machine, floor, gate.alpha)
    return _priced(
        Condition(
            name=name,
            verdict=verdict,
            floor=floor,
            estimate=estimate,
            lower=lower,
            upper=upper,
            n=len(people),
            note=f"{note}; prediction-powered, bounds hold at every look",
            needs_more=more,
        ),
        _review_usd(gate.prices),
    )


def _reviews_needed(
    people: list[float], everything: list[float], machine: list[float], floor: float, alpha: float
) -> int:
    """About how many reviews more decide, if they come as those before; as for a plain test where there are few."""
    if len(people) < 10:
        return AgreementTest(floor, alpha).needs_more() - len(people)

    def decides(more: int) -> bool:
        lower, upper = powered_bounds(everything, people, machine, alpha, times=1 + more / len(people))
        return lower >= floor or upper < floor

    return fewest(decides, largest=64 * len(people))


def _cost(wanted: Cost, cases: Sequence[Case], gate: ResponseGate) -> Condition:
    """Share saved: exact where both prices are fixed, else by bets on what each case saves."""
    prices = gate.prices
    note = "share of the teacher's cost that the student saves"
    if not any(case.student_usd is not None or case.teacher_usd is not None for case in cases):
        if prices.student_usd is None or not prices.teacher_usd:
            missing = "no costs in the rows and no prices.teacher_usd and prices.student_usd"
            return Condition(name="cost", verdict="undecided", floor=wanted.floor, note=missing)
        saved = 1 - prices.student_usd / prices.teacher_usd
        verdict: Verdict = "passed" if saved >= wanted.floor else "failed"
        return Condition(
            name="cost",
            verdict=verdict,
            floor=wanted.floor,
            estimate=saved,
            n=len(cases),
            note=f"{note}, by list price",
        )
    if prices.largest_usd is None:
        raise ValueError("rows have their own costs: say in prices.largest_usd what one call can cost at most")
    pairs = [
        (student, teacher)
        for case in cases
        if (student := case.student_usd if case.student_usd is not None else prices.student_usd) is not None
        and (teacher := case.teacher_usd if case.teacher_usd is not None else prices.teacher_usd) is not None
    ]
    if any(not 0.0 <= usd <= prices.largest_usd for pair in pairs for usd in pair):
        raise ValueError(f"a row costs more than prices.largest_usd = {prices.largest_usd:g}, or less than nothing")
    measured, lower, upper = reduction(pairs, prices.largest_usd, gate.alpha)
    verdict = "passed" if lower >= wanted.floor else "failed" if upper < wanted.floor else "undecided"
    return _priced(
        Condition(
            name="cost",
            verdict=verdict,
            floor=wanted.floor,
            estimate=measured,
            lower=lower,
            upper=upper,
            n=len(pairs),
            note=f"{note}, bounds hold at every look",
            needs_more=max(50, len(pairs)) if verdict == "undecided" else None,
        ),
        _teacher_usd(cases, prices),
    )


def _tested(
    name: str,
    test: AgreementTest | ScoreTest,
    gate: ResponseGate,
    note: str,
    usd_each: float | None,
    share: float = 1.0,
) -> Condition:
    """A condition of a sequential test; `share` cases are needed for each that counts."""
    needs = test.needs_more()
    return _priced(
        Condition(
            name=name,
            verdict=test.verdict,
            floor=test.floor,
            estimate=test.estimate,
            lower=test.lower_bound(1 - gate.alpha),
            upper=test.upper_bound(1 - gate.alpha),
            n=test.n,
            evidence=math.exp(min(test.log_e_pass, 700.0)),
            note=f"{note}; anytime-valid bounds",
            needs_more=math.ceil(needs * share) if needs else None,
        ),
        usd_each,
    )


def _priced(condition: Condition, usd_each: float | None) -> Condition:
    if condition.verdict != "undecided" or condition.needs_more is None:
        return condition.model_copy(update={"needs_more": None})
    return (
        condition if usd_each is None else condition.model_copy(update={"costs_usd": condition.needs_more * usd_each})
    )


def _upside_down(good: Condition, ceiling: float) -> Condition:
    """A condition on the share that is well, told as one on the share that is not."""

    def other(value: float | None) -> float | None:
        return None if value is None else 1.0 - value

    told = {"estimate": other(good.estimate), "lower": other(good.upper), "upper": other(good.lower)}
    return good.model_copy(update=told | {"floor": None, "ceiling": ceiling})


def _outcome(winner: Winner | None) -> Outcome:
    return "win" if winner == "student" else "loss" if winner == "other" else "tie"


def _without(everything: list[float], part: list[float]) -> list[float]:
    """What is left of verdicts when those of `part` are taken out."""
    ones = everything.count(1.0) - part.count(1.0)
    return [1.0] * ones + [0.0] * (len(everything) - len(part) - ones)


def _teacher_usd(cases: Sequence[Case], prices: Prices) -> float | None:
    paid = [case.teacher_usd for case in cases if case.teacher_usd is not None]
    return sum(paid) / len(paid) if paid else prices.teacher_usd


def _review_usd(prices: Prices) -> float:
    return prices.human_usd_per_minute * prices.minutes_per_review
