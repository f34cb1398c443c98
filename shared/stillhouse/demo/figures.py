"""The report's numbers and curves: a function of what was folded from the log and counted at the sender."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from stillhouse.demo.player import Tally
from stillhouse.demo.source import Plan
from stillhouse.demo.timeline import teacher_calls, timeline, while_live
from stillhouse.demo.watcher import Answered, Audit, State
from stillhouse.quality.binomial import clopper_pearson_upper
from stillhouse.quality.edetector import ErrorDetector
from stillhouse.tasks import Task

CONFIDENCE: Final = 0.95
POINTS: Final = 120  # of a curve over all requests
WINDOW: Final = 100  # audits behind a point of the agreement curve

Curve = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened after `at` requests."""

    at: int
    name: str


@dataclass(frozen=True, slots=True)
class Watched:
    """One live student as its audits show it: agreement over the last ones, its lower bound, the drift statistic."""

    student_id: str
    agreement: Curve
    lower: Curve
    statistic: Curve
    level: float  # of the statistic, at which the alarm is raised


@dataclass(frozen=True, slots=True)
class Curves:
    """What the plots show; the first number of every point is a request number, in the order of sending."""

    requests: int
    moments: list[Moment]
    student_share: Curve
    teacher_latency: list[Curve]
    student_latency: list[Curve]
    cost_with: Curve
    cost_without: Curve
    watched: list[Watched]


def report(state: State, tally: Tally, plan: Plan, task: Task) -> dict[str, Any]:
    """`report.json`. USD, milliseconds, times in RFC 3339; what is an estimate has its sample size beside it."""
    served = _served(state)
    by = {who: [answer for answer in served if answer.served_by == who] for who in ("teacher", "student")}
    return {
        "requests": tally.sent,
        "answered": tally.answered,
        "lost": tally.lost,
        "duplicates_suppressed": len(tally.duplicates_sent - state.answered_twice),
        "served_by": {who: len(answers) for who, answers in by.items()},
        "agreement": agreement([audit for audit in state.audits.values() if audit.stage == "live"]),
        "gate": [
            {
                "student": gate.student_id,
                "stage": gate.stage,
                "verdict": gate.verdict,
                "n": gate.n,
                "teacher_calls": gate.teacher_calls,
                "evidence": gate.evidence,
            }
            for gate in sorted(state.gates.values(), key=lambda gate: gate.time)
        ],
        "cost_per_1k": costs(state, task),
        "latency_ms": {who: _latency(answers) for who, answers in by.items()},
        "drift": _drift(state, tally),
        "students": students(state),
        "about": {
            "task": plan.task,
            "data": plan.origin,
            "sample": plan.sample,
            "late_groups": list(plan.late),
            "teacher_price": {
                "usd_per_call": task.teacher.usd_per_call,
                "source": task.teacher.price_source,
                "measured": False,
            },
            "cpu_price": {"usd_per_cpu_hour": task.budget.usd_per_cpu_hour, "source": "declared; CPU time is measured"},
            "confidence": CONFIDENCE,
            "errors": dict(tally.errors),
            "sender_waited_s": round(tally.waited_s, 1),
            "duplicates_sent": len(tally.duplicates_sent),
            "answered_twice": len(state.answered_twice),
            "spent_usd": state.spent_usd,
            "teacher_alone_usd": state.list_price_usd,
            "overheads_usd": overheads(state),
            "teacher_calls": teacher_calls(state),
            "timeline": timeline(state, tally),
            "while_live": while_live(state),
            "agreement_without_changed_traffic": agreement(_outside_change(state, tally)),
            "agreement_by_student": {
                student: agreement([a for a in state.audits.values() if a.stage == "live" and a.student_id == student])
                for student in dict.fromkeys(a.student_id for a in state.audits.values() if a.stage == "live")
            },
        },
    }


def missing(figures: dict[str, Any]) -> str | None:
    """Which part of the loop the report does not show; None where all of it happened and nothing was lost."""
    live = [student for student in figures["students"] if student["live_at"] is not None]
    if not live:
        return "no student went live"
    if figures["drift"]["injected_at"] is None:
        return "the traffic did not change"
    if figures["drift"]["detected_after_requests"] is None:
        return "the change of traffic was not detected"
    if not figures["drift"]["rolled_back"]:
        return "the route did not go back to the teacher"
    if not any(student["live_at"] > figures["drift"]["injected_at"] for student in live):
        return "no second student went live"
    if figures["lost"]:
        return f"{figures['lost']} requests were lost"
    if figures["answered"] != figures["requests"]:
        return f"{figures['requests'] - figures['answered']} requests were answered with an error"
    return None


def agreement(audits: Sequence[Audit]) -> dict[str, Any]:
    """Share of audits without a loss, its one-sided exact lower bound (Clopper-Pearson, 95 %), and how many.

    A loss is served and different: what would be escalated agrees.
    """
    n, losses = len(audits), sum(audit.loss for audit in audits)
    if n == 0:
        return {"estimate": None, "lower": None, "n": 0}
    return {"estimate": 1 - losses / n, "lower": 1 - clopper_pearson_upper(losses, n, 1 - CONFIDENCE), "n": n}


def costs(state: State, task: Task) -> dict[str, float | None]:
    """USD per 1,000 requests: the teacher's list price; all that was spent; the CPU time of one model's answers."""
    n = state.by_teacher + state.by_student
    hour = task.budget.usd_per_cpu_hour / 3_600_000

    def cpu(values: list[float]) -> float | None:
        return 1000 * hour * sum(values) / len(values) if values else None

    answers = state.answers.values()
    return {
        "teacher": round(1000 * state.list_price_usd / n, 9) if n else None,
        "net": round(1000 * state.spent_usd / n, 9) if n else None,
        "teacher_cpu": cpu([a.teacher_cpu_ms for a in answers if a.teacher_cpu_ms is not None]),
        "student_cpu": cpu([a.student_cpu_ms for a in answers if a.student_cpu_ms is not None]),
    }


def overheads(state: State) -> dict[str, float]:
    """What proving and training cost, by kind, USD."""
    found = {"audit": sum(audit.overhead_usd for audit in state.audits.values())}
    for cost in state.overheads.values():
        found[cost.kind] = found.get(cost.kind, 0.0) + cost.usd
    return found


def students(state: State) -> list[dict[str, Any]]:
    """Every student with the times at which it went live and was taken out, oldest first."""
    rows: dict[str, dict[str, Any]] = {}
    for trained in sorted(state.trained.values(), key=lambda trained: trained.time):
        rows[trained.student_id] = {
            "id": trained.student_id,
            "architecture": trained.architecture,
            "bytes": trained.artefact.size,
            **trained.about,
            "live_at": None,
            "retired_at": None,
        }
    for version in sorted(state.routes):
        route = state.routes[version]
        if route.live is not None:
            row = rows.setdefault(
                route.live.student_id,
                {
                    "id": route.live.student_id,
                    "architecture": route.live.architecture,
                    "bytes": route.live.artefact.size,
                    "live_at": None,
                    "retired_at": None,
                },
            )
            row["live_at"] = row["live_at"] or _text(route.live.since)
        for student_id, row in rows.items():
            serves = route.live is not None and route.live.student_id == student_id
            was_live = row["live_at"] is not None and not serves
            if row["retired_at"] is None and (was_live or student_id in route.retired):
                row["retired_at"] = _text(route.time)
    return list(rows.values())


def _drift(state: State, tally: Tally) -> dict[str, Any]:
    injected = tally.injected_at
    found = None
    if injected is not None:
        alarms = (drift for drift in state.drifts.values() if drift.time >= injected)
        found = min(alarms, key=lambda drift: drift.time, default=None)
    after = None
    if found is not None and injected is not None:
        times = [answer.requested_at for answer in state.answers.values() if answer.purpose == "serve"]
        after = sum(injected <= time <= found.time for time in times)
    served = [
        version for version, route in state.routes.items() if found is not None and _serves(state, version, found)
    ]
    back = bool(served) and any(
        version > min(served) and not _serves(state, version, found) for version in state.routes if found is not None
    )
    return {
        "injected_at": _text(injected) if injected is not None else None,
        "detected_after_requests": after,
        "rolled_back": back,
    }


def _serves(state: State, version: int, drift: Any) -> bool:
    live = state.routes[version].live
    return live is not None and live.student_id == drift.student_id


def _served(state: State) -> list[Answered]:
    """Answers that users got, in the order in which they asked."""
    kept = (a for a in state.answers.values() if a.purpose == "serve" and a.served_by is not None)
    return sorted(kept, key=lambda answer: answer.requested_at)


def _latency(answers: Sequence[Answered]) -> dict[str, float | None]:
    values = [answer.latency_ms for answer in answers]
    return {"p50": quantile(values, 0.5), "p99": quantile(values, 0.99)}


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of `values` do not exceed; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-round(share * 1000) * len(ordered) // 1000) - 1))]


def _text(time: datetime) -> str:
    # One format for all, so that times compare as texts too.
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def curves(state: State, tally: Tally, task: Task) -> Curves:
    """What the report's plots show."""
    asked = sorted(
        ((answer.requested_at, key) for key, answer in state.answers.items() if answer.purpose == "serve"),
    )
    times = [time for time, _ in asked]
    number = {key: place for place, (_, key) in enumerate(asked, 1)}
    answers = [state.answers[key] for _, key in asked]
    live = [audit for audit in state.audits.values() if audit.stage == "live"]
    step = max(1, -(-len(answers) // POINTS))
    blocks = [(start + step / 2, answers[start : start + step]) for start in range(0, len(answers), step)]
    with_, without = _cumulated(state, answers, times, number, step)
    return Curves(
        requests=len(answers),
        moments=_moments(state, tally, times),
        student_share=[(x, sum(a.served_by == "student" for a in block) / len(block)) for x, block in blocks],
        teacher_latency=_latencies(blocks, "teacher"),
        student_latency=_latencies(blocks, "student"),
        cost_with=with_,
        cost_without=without,
        watched=[
            _watched(student, [audit for audit in live if audit.student_id == student], number, task)
            for student in dict.fromkeys(audit.student_id for audit in live)
        ],
    )


def _latencies(blocks: Sequence[tuple[float, list[Answered]]], who: str) -> list[Curve]:
    """Medians, a piece for every stretch in which the model answered."""
    pieces: list[Curve] = [[]]
    for x, block in blocks:
        median = quantile([a.latency_ms for a in block if a.served_by == who], 0.5)
        if median is not None:
            pieces[-1].append((x, median))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _cumulated(
    state: State, answers: Sequence[Answered], times: Sequence[datetime], number: dict[str, int], step: int
) -> tuple[Curve, Curve]:
    """USD spent so far, with everything; and what the teacher alone would have cost."""
    extra = [0.0] * (len(answers) + 1)
    for audit in state.audits.values():
        extra[number.get(audit.request_id, len(answers))] += audit.overhead_usd
    for cost in state.overheads.values():
        extra[bisect_right(times, cost.time)] += cost.usd
    for answer in state.answers.values():
        if answer.purpose != "serve":
            extra[bisect_right(times, answer.requested_at)] += answer.cost_usd
    spent, alone = extra[0], 0.0
    with_: Curve = [(0.0, spent)]
    without: Curve = [(0.0, 0.0)]
    for place, answer in enumerate(answers, 1):
        spent += answer.cost_usd + extra[place]
        alone += answer.teacher_cost_usd if answer.served_by is not None else 0.0
        if place % step == 0 or place == len(answers):
            with_.append((float(place), spent))
            without.append((float(place), alone))
    return with_, without


def _watched(student_id: str, audits: Sequence[Audit], number: dict[str, int], task: Task) -> Watched:
    """Agreement from 30 audits on, and the monitor's statistic, computed again from the audits."""
    detector = ErrorDetector(task.gate.epsilon, task.drift.average_run_length)
    estimates: Curve = []
    lowers: Curve = []
    statistic: Curve = []
    kept = [audit for audit in audits if audit.request_id in number]
    for end, audit in enumerate(kept, 1):
        at = float(number[audit.request_id])
        detector.update(audit.loss)
        statistic.append((at, detector.statistic))
        if end >= 30 and end % 5 == 0:
            said = agreement(kept[max(0, end - WINDOW) : end])
            estimates.append((at, said["estimate"]))
            lowers.append((at, said["lower"]))
    return Watched(student_id, sorted(estimates), sorted(lowers), sorted(statistic), detector.level)


def _outside_change(state: State, tally: Tally) -> list[Audit]:
    """Audits of live students but for those between the change of traffic and its detection."""
    live = [audit for audit in state.audits.values() if audit.stage == "live"]
    injected = tally.injected_at
    if injected is None:
        return live
    late = {drift.student_id for drift in state.drifts.values() if drift.time >= injected}

    def counts(audit: Audit) -> bool:
        answer = state.answers.get(audit.request_id)
        return audit.student_id not in late or (answer is not None and answer.requested_at < injected)

    return [audit for audit in live if counts(audit)]


def _moments(state: State, tally: Tally, times: Sequence[datetime]) -> list[Moment]:
    found: list[tuple[datetime, str]] = []
    before = None
    for version in sorted(state.routes):
        live = state.routes[version].live
        serves = live.student_id if live is not None else None
        if serves != before:
            found.append((state.routes[version].time, "student live" if serves is not None else "back to teacher"))
        before = serves
    if tally.injected_at is not None:
        found.append((tally.injected_at, "traffic changes"))
    found += [(drift.time, "drift detected") for drift in state.drifts.values()]
    moments: list[Moment] = []
    for time, name in sorted(found):
        at = bisect_right(times, time)
        if moments and at - moments[-1].at <= len(times) / 200:  # one mark for what happens at once
            moments[-1] = Moment(moments[-1].at, f"{moments[-1].name}, {name}")
        else:
            moments.append(Moment(at, name))
    return moments
