"""The conditions of the offline gate, one function each: what holds, what does not, and what is open."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from services.validator.cases import Costs, Facts, Outcome, finite_exp
from stillhouse.economics import pays
from stillhouse.events import Condition
from stillhouse.quality.calibration_error import calibration_error
from stillhouse.quality.eprocess import AgreementTest
from stillhouse.quality.forecast import fewest
from stillhouse.quality.slices import SliceFinding, judge_differences, judge_slices
from stillhouse.tasks import Task
from stillhouse.tasks.conditions import (
    RECALL_GAINED,
    RECALL_OF,
    Calibration,
    Cost,
    Forgetting,
    Memory,
    Recall,
    Size,
    Slice,
)

if TYPE_CHECKING:
    from stillhouse.distill.causal_lm.forgetting import Forgotten

SHARE_OF_A_LABEL = 0.01  # of the cases: labels that the task does not name are judged from here on


def conditions_of(
    task: Task, threshold: float, cases: Sequence[Outcome], alpha: float, costs: Costs, facts: Facts
) -> list[Condition]:
    """All conditions of `task`; agreement, coverage and payback come first."""
    agreement = AgreementTest(1.0 - task.gate.epsilon, alpha)
    coverage = _Coverage(task.gate.min_coverage, alpha)
    for case in cases:
        if task.cascade.counts(case.served(threshold)):
            agreement.update(not case.loss(threshold))
        coverage.update(case.served(threshold))
    found = [
        _agreement(agreement, task.cascade.selective, len(cases)),
        coverage.condition(),
        _payback(task, coverage, costs),
    ]
    for wanted in task.gate.conditions:
        match wanted:
            case Recall():
                found += _recall(wanted, threshold, cases, alpha)
            case Slice():
                found += _slice(wanted, threshold, cases, alpha)
            case Cost():
                found.append(_cost(wanted, task, coverage, costs))
            case Calibration():
                found.append(_calibration(wanted, cases, alpha))
            case Size():
                found.append(_at_most("size", facts.artefact_bytes / 1e6, wanted.ceiling, "MB of the artefact's files"))
            case Memory() if facts.memory_bytes is not None:
                note = "MB, peak of a process that loads the artefact and answers, measured here"
                found.append(_at_most("memory", facts.memory_bytes / 1e6, wanted.ceiling, note))
            case Forgetting() if facts.forgetting is not None:
                found += _forgetting(wanted, facts.forgetting)
            case _:
                continue  # latency is decided in shadow, answers in free words by a judge and people
    return found + _golden(task, facts)


class _Coverage:
    """The share of requests above the threshold, with bounds that hold at every look."""

    def __init__(self, floor: float, alpha: float) -> None:
        # A least coverage of 0 or 1 cannot be tested; 0 always holds, and 1 is as good as 1 in a million.
        self.floor = floor
        self.test = AgreementTest(min(max(floor, 1e-6), 1 - 1e-6), alpha)
        self.served = 0

    def update(self, served: bool) -> None:
        self.test.update(served)
        self.served += served

    @property
    def n(self) -> int:
        return self.test.n

    def bounds(self, times: float = 1.0) -> tuple[float, float]:
        """Of the share; with `times`, as they would be after so many times the cases."""
        test = AgreementTest(self.test.floor, self.test.alpha)
        test.update_many(round(self.served * times), round((self.n - self.served) * times))
        confidence = 1 - self.test.alpha
        return test.lower_bound(confidence), test.upper_bound(confidence)

    def decided_after(self, decides: Callable[[float, float], bool]) -> int | None:
        """About how many more cases until the bounds of the coverage decide; None before the first case."""
        if self.n == 0:
            return None
        return fewest(lambda more: decides(*self.bounds(1 + more / self.n)), largest=100_000)

    def condition(self) -> Condition:
        lower, upper = self.bounds()
        return Condition(
            name="coverage",
            verdict="passed" if self.floor <= 0 else self.test.verdict,
            floor=self.floor,
            estimate=self.served / self.n if self.n else None,
            lower=lower,
            upper=upper,
            n=self.n,
            evidence=finite_exp(self.test.log_e_pass),
            note="share of requests above the threshold; anytime-valid bounds",
            needs_more=self.test.needs_more(),
        )


def _agreement(test: AgreementTest, selective: bool, cases: int) -> Condition:
    needs_more = test.needs_more()
    if selective and needs_more is not None:  # only the served ones of `cases` count
        needs_more = math.ceil(needs_more * max(1, cases) / max(1, test.n))
    return Condition(
        name="agreement",
        verdict=test.verdict,
        floor=test.floor,
        estimate=test.estimate,
        lower=test.lower_bound(1 - test.alpha),
        upper=test.upper_bound(1 - test.alpha),
        n=test.n,
        evidence=finite_exp(test.log_e_pass),
        note=f"1 - {'P(different | served)' if selective else 'P(served and different), over all requests'}; "
        "anytime-valid bounds",
        needs_more=needs_more,
    )


def _payback(task: Task, coverage: _Coverage, costs: Costs) -> Condition:
    budget = task.budget

    def saving(share: float) -> float:
        usd = task.teacher.usd_per_call
        horizon = budget.horizon_requests
        return pays(share, task.audit.pi, usd, costs.student_usd, horizon, costs.overhead_usd).net_saving_usd

    note = f"net USD over {budget.horizon_requests:,} requests, after audits, training and gates"
    return _of_coverage("pays", budget.min_saving_usd, coverage, saving, note)


def _cost(wanted: Cost, task: Task, coverage: _Coverage, costs: Costs) -> Condition:
    usd = task.teacher.usd_per_call
    if usd <= 0:
        return Condition(name="cost", verdict="failed", floor=wanted.floor, note="the teacher's price is 0")

    def reduction(share: float) -> float:
        return pays(share, task.audit.pi, usd, costs.student_usd, 1, 0.0).saving_per_request_usd / usd

    note = "share of the teacher's cost that 1,000 requests save, audits counted; training and gates are in `pays`"
    return _of_coverage("cost", wanted.floor, coverage, reduction, note)


def _of_coverage(name: str, floor: float, coverage: _Coverage, value: Callable[[float], float], note: str) -> Condition:
    """A floor under what rises with the coverage, decided by the coverage's bounds."""
    if coverage.n == 0:
        return Condition(name=name, verdict="undecided", floor=floor, note="no cases yet")
    lower, upper = (value(share) for share in coverage.bounds())
    verdict = "passed" if lower >= floor else "failed" if upper < floor else "undecided"
    more = None
    if verdict == "undecided":
        more = coverage.decided_after(lambda low, high: value(low) >= floor or value(high) < floor)
    return Condition(
        name=name,
        verdict=verdict,
        floor=floor,
        estimate=value(coverage.served / coverage.n),
        lower=lower,
        upper=upper,
        n=coverage.n,
        note=note,
        needs_more=more,
    )


def _recall(wanted: Recall, threshold: float, cases: Sequence[Outcome], alpha: float) -> list[Condition]:
    counts = Counter(case.teacher for case in cases)
    labels = wanted.labels or tuple(
        label for label, count in sorted(counts.items()) if count >= SHARE_OF_A_LABEL * len(cases)
    )
    # Where labels are not named, all are told of: a slice's share of alpha must not depend on which are judged now.
    told = [(c.teacher, not c.loss(threshold)) for c in cases if c.teacher in wanted.labels or not wanted.labels]
    note = "1 - P(served and different | the teacher's label); anytime-valid bounds"
    found = _sliced(RECALL_OF.strip(), labels, judge_slices(told, wanted.floor, alpha), wanted.floor, note, len(cases))
    if wanted.margin is not None:
        pairs = [
            (case.teacher, int(case.champion_loss) - int(case.loss(threshold)))
            for case in cases
            if (case.teacher in wanted.labels or not wanted.labels) and case.champion_loss is not None
        ]
        seen = tuple(label for label in labels if any(label == name for name, _ in pairs))
        note = "recall minus the live student's on the same cases; anytime-valid bounds"
        differences = judge_differences(pairs, wanted.margin, alpha)
        found += _sliced(RECALL_GAINED.strip(), seen, differences, -wanted.margin, note, len(cases))
    return found


def _slice(wanted: Slice, threshold: float, cases: Sequence[Outcome], alpha: float) -> list[Condition]:
    told = [(slice_of(case, wanted), not case.loss(threshold)) for case in cases]
    counts = Counter(name for name, _ in told)
    judged = tuple(name for name in counts if counts[name] >= wanted.least_share * len(cases))
    left_out = {name: counts[name] for name in counts if name not in judged}
    note = "1 - P(served and different | slice); anytime-valid bounds"
    if left_out:
        named = ", ".join(f"{name} ({count})" for name, count in sorted(left_out.items())[:10])
        note += f"; too few cases to be judged: {named}"
    findings = judge_slices(told, wanted.floor, alpha)
    return _sliced("agreement in", judged or ("any slice",), findings, wanted.floor, note, len(cases))


def slice_of(case: Outcome, wanted: Slice) -> str:
    """The slice that a case is in."""
    if wanted.by == "group":
        return f"group {case.group}" if case.group is not None else "no group"
    if wanted.by == "language":
        return f"language {case.language}" if case.language is not None else "unknown language"
    if wanted.by == "length":
        edges = (0, *wanted.edges)
        band = max(place for place, edge in enumerate(edges) if case.chars >= edge)
        return (
            f"{edges[band]}-{edges[band + 1] - 1} characters" if band + 1 < len(edges) else f"{edges[band]}+ characters"
        )
    recorded = case.recorded()
    if recorded is None:
        return "unknown time"
    return recorded.strftime("%Y-%m-%d") if wanted.by == "day" else recorded.strftime("week %G-%V")


def _sliced(
    name: str, wanted: Sequence[str], findings: Iterable[SliceFinding], floor: float, note: str, n: int
) -> list[Condition]:
    """A condition for each slice that is wanted, those without a case too."""
    by_name = {finding.name: finding for finding in findings}
    conditions = []
    for slice_ in wanted:
        finding = by_name.get(slice_)
        if finding is None:
            missing = Condition(name=f"{name} {slice_}", verdict="undecided", floor=floor, note="no cases yet")
            conditions.append(missing.model_copy(update={"needs_more": max(50, n)}))
            continue
        conditions.append(
            Condition(
                name=f"{name} {slice_}",
                verdict=finding.verdict,
                floor=floor,
                estimate=finding.estimate,
                lower=finding.lower,
                upper=finding.upper,
                n=finding.n,
                evidence=finding.evidence,
                note=note,
                needs_more=None if finding.needs_more is None else round(finding.needs_more),
            )
        )
    return conditions


def _calibration(wanted: Calibration, cases: Sequence[Outcome], alpha: float) -> Condition:
    if not cases:
        return Condition(name="calibration", verdict="undecided", ceiling=wanted.ceiling, note="no cases yet")
    confidence = np.array([case.confidence for case in cases])
    error = calibration_error(confidence, [case.same() for case in cases], alpha, wanted.bins)
    lower, upper, n = float(error.lower[-1]), float(error.upper[-1]), len(cases)
    verdict = "passed" if upper <= wanted.ceiling else "failed" if lower > wanted.ceiling else "undecided"
    gap = abs(wanted.ceiling - float(error.estimate[-1]))
    # Bounds narrow with the root of n.
    more = int(n * min(1000.0, ((upper - lower) / max(gap, 1e-3)) ** 2)) + 1
    return Condition(
        name="calibration",
        verdict=verdict,
        ceiling=wanted.ceiling,
        estimate=float(error.estimate[-1]),
        lower=lower,
        upper=upper,
        n=n,
        note=f"error of the confidence against agreement, {wanted.bins} bins, all cases; anytime-valid bounds",
        needs_more=more,
    )


def _at_most(name: str, value: float, ceiling: float, note: str) -> Condition:
    """A measurement against its ceiling: the same artefact has the same size, so there is nothing to infer."""
    verdict = "passed" if value <= ceiling else "failed"
    return Condition(name=name, verdict=verdict, ceiling=ceiling, estimate=value, n=1, note=note)


def _forgetting(wanted: Forgetting, found: Forgotten) -> list[Condition]:
    """Two conditions on a list of probes: it is no sample, so there is nothing to infer."""
    kl = Condition(
        name="forgetting",
        verdict="passed" if found.kl <= wanted.ceiling else "failed",
        ceiling=wanted.ceiling,
        estimate=found.kl,
        n=found.tokens,
        note=f"KL(base, student), nats a token, over {found.tokens} tokens that are not of the task",
    )
    share = found.kept / found.known if found.known else 1.0
    kept = Condition(
        name="probes kept",
        verdict="passed" if share >= wanted.floor else "failed",
        floor=wanted.floor,
        estimate=share,
        n=found.known,
        note=f"of {found.known} probes that the base model gets right, of {found.probes}; a list and no sample",
    )
    return [kl, kept]


def _golden(task: Task, facts: Facts) -> list[Condition]:
    conditions = []
    for kind in sorted({faced.kind for faced in facts.golden}):
        faced = [one for one in facts.golden if one.kind == kind]
        held = sum(one.holds for one in faced)
        floor = float(getattr(task.gate.golden_floor, kind))
        broken = "; ".join(one.why for one in faced if not one.holds)[:300]
        conditions.append(
            Condition(
                name=f"golden {kind}",
                verdict="passed" if held / len(faced) >= floor else "failed",
                floor=floor,
                estimate=held / len(faced),
                n=len(faced),
                note="all reviewed cases of this kind, a list and no sample"
                + (f"; not held: {broken}" if broken else ""),
            )
        )
    return conditions
