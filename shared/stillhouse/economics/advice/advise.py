"""Should this task be distilled, into what, and what would it save? A recommendation that names its reasons.

The rules are few and in order: what forbids a student (criticality, a teacher that does not agree with itself, creative
answers), what a quick student was certified to serve, what that saves after everything. Every figure is measured on the
cases, and says so where it could not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stillhouse.economics.advice.case import Case
from stillhouse.economics.advice.form import Form, form_of
from stillhouse.economics.advice.probe import FEWEST, Probe, probe
from stillhouse.economics.advice.repetition import Novelty, Repetition, novelty, repetition
from stillhouse.economics.controller import DAYS_PER_MONTH, Range, rate_of
from stillhouse.economics.limits import name_of
from stillhouse.economics.payback import pays
from stillhouse.quality.binomial import clopper_pearson
from stillhouse.quality.self_agreement import repeats
from stillhouse.store.redaction import normalise

GOOD_COVERAGE: Final = 0.4  # certified, from which a student is recommended without an if
DUPLICATES: Final = 0.3  # exact repeats, from which a cache alone pays
NOVEL: Final = 0.5  # share of new terms late in the stream, from which a student ages fast
LANGUAGE_MODEL_PRICE: Final = 0.1  # of the teacher's: assumed for a small language model, until one is measured
CLASSIFIER_USD: Final = 1e-6  # a call of a classifier on a CPU; measured ones cost less

Recommendation = Literal["distil", "maybe", "do not"]
Student = Literal["hashed n-grams or a cut encoder", "small language model", "none"]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the cases do not say. `usd_per_call` None: not known, savings are then shares of the teacher's cost.

    `per_day` None: taken from the cases' times. `once_usd`: what training and proving a student is expected to cost.
    """

    criticality: Literal["normal", "high"] = "normal"
    usd_per_call: float | None = None
    per_day: float | None = None
    epsilon: float = 0.05
    alpha: float = 0.05
    min_coverage: float = 0.2
    pi: float = 0.1
    horizon_requests: int = 100_000
    once_usd: float = 1.0


@dataclass(frozen=True, slots=True)
class Advice:
    """The recommendation, its reasons in words, and what was measured. Savings: after audits and the student's calls.

    `saving_share` is of the teacher's cost; `saving_usd_per_month`, and `net_usd` (over the horizon, after `once_usd`),
    are in USD. Each has bounds, and is None where something was not known.
    """

    recommendation: Recommendation
    student: Student
    reasons: list[str]
    cases: int
    form: Form
    repetition: Repetition
    novelty: Novelty | None
    self_agreement: Range | None
    escalated: float
    probe: Probe | None
    requests_per_day: Range | None
    usd_per_call: float | None
    saving_share: Range | None
    saving_usd_per_month: Range | None
    net_usd: Range | None


def advise(cases: Sequence[Case], told: Circumstances) -> Advice:
    """Advice on at least one recorded answer. Raises `ValueError` for none."""
    if not cases:
        raise ValueError("there is nothing to give advice on: no recorded answers")
    timed = all(case.time is not None for case in cases)
    ordered = sorted(cases, key=lambda case: case.time.timestamp() if case.time and timed else 0.0)
    inputs, form = [case.input for case in ordered], form_of(ordered)
    usd = told.usd_per_call if told.usd_per_call is not None else _mean_usd(ordered)
    learnt = probe(ordered, told.epsilon, told.alpha) if form.kind in ("classification", "conversion") else None
    agreement, rate = _self_agreement(ordered), _rate(ordered, told, timed)
    share, monthly, net = _savings(learnt, form, told, usd, rate)
    found = Advice(
        recommendation="maybe",
        student=_student(form),
        reasons=[],
        cases=len(cases),
        form=form,
        repetition=repetition(inputs),
        novelty=novelty(inputs) if timed else None,
        self_agreement=agreement,
        escalated=sum(case.policy for case in cases) / len(cases),
        probe=learnt,
        requests_per_day=rate,
        usd_per_call=usd,
        saving_share=share,
        saving_usd_per_month=monthly,
        net_usd=net,
    )
    return _decided(found, told)


def _decided(found: Advice, told: Circumstances) -> Advice:
    against, reasons = _forbids(found, told), _measured(found, told)
    verdict: Recommendation = "maybe"
    if against:
        verdict, reasons = ("maybe" if found.repetition.exact >= DUPLICATES else "do not"), against + reasons
        if found.repetition.exact >= DUPLICATES:
            reasons.insert(
                0, f"{found.repetition.exact:.0%} of the requests repeat an earlier one: a cache pays already"
            )
    elif found.probe is None:
        reasons.insert(0, f"fewer than {FEWEST} usable cases: record more, then ask again")
    elif found.probe.coverage >= GOOD_COVERAGE and not found.probe.left_out:
        verdict = "distil"
    elif found.probe.coverage >= GOOD_COVERAGE:
        reasons.insert(0, f"{found.probe.left_out} fields have too many values for a quick student: nobody knows yet")
    elif found.probe.coverage >= told.min_coverage:
        reasons.insert(0, "only a part can be served: it pays where the teacher is dear")
    elif found.probe.coverage_upper < told.min_coverage and found.probe.n >= 500:
        verdict = "do not"
        reasons.insert(0, f"a quick student may serve less than the {told.min_coverage:.0%} that a gate asks for")
    return _replaced(found, verdict, reasons)


def _forbids(found: Advice, told: Circumstances) -> list[str]:
    """What speaks against any student."""
    reasons = []
    if told.criticality == "high":
        reasons.append('the task is marked criticality = "high": only the teacher may answer')
    if found.self_agreement is not None and found.self_agreement.upper < 1 - told.epsilon:
        reasons.append(
            f"the teacher agrees with itself in {found.self_agreement.estimate:.0%} of repeated requests (at most "
            f"{found.self_agreement.upper:.0%}): nobody can agree with it more often"
        )
    if found.form.kind == "creative":
        reasons.append(
            f"answers are texts of their own ({found.form.distinct:,} different ones in {found.cases:,}, "
            f"{found.form.grounded:.0%} of their words from the request): agreement is not defined without a judge"
        )
    if found.net_usd is not None and found.net_usd.upper <= 0:
        reasons.append(f"it would not pay back within {told.horizon_requests:,} requests")
    return reasons


def _measured(found: Advice, told: Circumstances) -> list[str]:
    """What was measured, in words."""
    form, repeats_, learnt = found.form, found.repetition, found.probe
    reasons = [
        f"output form: {form.kind} ({form.distinct:,} different answers in {found.cases:,}, {form.json:.0%} JSON)",
        f"{repeats_.exact:.1%} of the requests repeat an earlier one exactly, {repeats_.near:.1%} nearly",
    ]
    if learnt is not None:
        what = f"all {learnt.fields} learnable fields" if learnt.fields else "the answer"
        served = (
            f"may serve {learnt.coverage:.0%} ({learnt.coverage_lower:.0%} to {learnt.coverage_upper:.0%})"
            if learnt.coverage
            else "cannot be certified to serve anything"
        )
        reasons.append(
            f"a quick student gets {what} right in {learnt.agreement:.0%} of {learnt.n:,} unseen cases and {served} so "
            f"that at most {told.epsilon:.0%} of all requests differ (confidence {1 - told.alpha:.0%})"
        )
    if found.self_agreement is not None:
        range_ = found.self_agreement
        reasons.append(
            f"the teacher agrees with itself in {range_.estimate:.0%} (at least {range_.lower:.0%}) of repeats"
        )
    else:
        reasons.append("the teacher's agreement with itself is not known: no request was answered twice")
    if found.novelty is not None:
        early, late = found.novelty.early, found.novelty.late
        aging = "; students will age: keep the audits up" if late > NOVEL or late > 1.2 * early else ""
        reasons.append(f"new words and word pairs: {early:.0%} in the second fifth, {late:.0%} in the last{aging}")
    if found.saving_share is not None and found.student == "small language model":
        reasons.append(
            f"savings assume that a small language model costs {LANGUAGE_MODEL_PRICE:.0%} of the teacher; "
            "students that this version trains are classifiers"
        )
    if found.escalated:
        reasons.append(f"{found.escalated:.1%} of the requests are for the teacher alone, by rule")
    return reasons


def _replaced(found: Advice, verdict: Recommendation, reasons: list[str]) -> Advice:
    from dataclasses import replace

    return replace(
        found, recommendation=verdict, reasons=reasons, student="none" if verdict == "do not" else found.student
    )


def _student(form: Form) -> Student:
    return "hashed n-grams or a cut encoder" if form.kind == "classification" else "small language model"


def _mean_usd(cases: Sequence[Case]) -> float | None:
    known = [case.usd for case in cases if case.usd is not None]
    return sum(known) / len(known) if known else None


def _self_agreement(cases: Sequence[Case]) -> Range | None:
    """Of requests that were answered at least twice, one pair each."""
    pairs = repeats((normalise(case.input), case.output.strip()) for case in cases)
    if not pairs:
        return None
    same = sum(first == second for first, second in pairs)
    return Range(same / len(pairs), *clopper_pearson(same, len(pairs)))


def _rate(cases: Sequence[Case], told: Circumstances, timed: bool) -> Range | None:
    if told.per_day is not None:
        return Range(told.per_day, told.per_day, told.per_day)
    times = [case.time for case in cases if case.time is not None]
    if not timed or len(times) < FEWEST:
        return None
    length = (max(times) - min(times)).total_seconds() / 86_400
    days: dict[str, int] = {}
    for time in times:
        days[name_of("day", time)] = days.get(name_of("day", time), 0) + 1
    counts = [days[day] for day in sorted(days)][1:-1]
    return (
        rate_of(counts, length)
        if len(counts) >= 3 and len(counts) >= 0.9 * (length - 2)
        else rate_of([len(times)], length)
    )


def _savings(
    learnt: Probe | None, form: Form, told: Circumstances, usd: float | None, rate: Range | None
) -> tuple[Range | None, Range | None, Range | None]:
    """As share of the teacher's cost, in USD a month, and in USD over the horizon after what it takes."""
    if learnt is None:
        return None, None, None
    price = usd if usd is not None else 1.0
    student = (
        LANGUAGE_MODEL_PRICE * price if form.kind != "classification" else CLASSIFIER_USD if usd is not None else 0.0
    )
    coverages = (learnt.coverage, learnt.coverage_lower, learnt.coverage_upper)
    each = [pays(c, told.pi, price, student, told.horizon_requests, told.once_usd) for c in coverages]
    share = Range(*(one.saving_per_request_usd / price if price else 0.0 for one in each))
    if usd is None:
        return share, None, None
    net = Range(*(one.net_saving_usd for one in each))
    if rate is None:
        return share, None, net
    per_month = [one.saving_per_request_usd * DAYS_PER_MONTH for one in each]
    low, high = per_month[1], per_month[2]
    monthly = Range(
        per_month[0] * rate.estimate,
        min(low * rate.lower, low * rate.upper),
        max(high * rate.lower, high * rate.upper),
    )
    return share, monthly, net
