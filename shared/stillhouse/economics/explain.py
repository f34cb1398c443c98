"""The ledger in words: what a task spent and on what, day by day, and every decision that led there, in order of time.

Pure, from the rows of the store and the task's declaration. Every sentence stands on a row: an amount, an event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from stillhouse.economics.savings import by_day, summarise
from stillhouse.events import (
    BudgetEvaluated,
    DriftDetected,
    RouteChanged,
    StudentTrained,
    TrainingFailed,
)
from stillhouse.tasks import Task

Row = Mapping[str, Any]
Kind = Literal["spending", "limit", "budget", "route", "verdict", "alarm", "training", "price"]

# Of what happened at one time: causes before effects, the day's sum last.
_ORDER: tuple[Kind, ...] = ("price", "training", "verdict", "alarm", "route", "limit", "budget", "spending")
_NAMES = {
    "request": "requests",
    "audit": "audits",
    "shadow": "shadowing",
    "training": "training",
    "gate": "gates",
    "backfill": "backfill",
    "storage": "storage",
    "capture": "capture",
    "routing": "routing",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence about a task, and when it became true."""

    time: datetime
    task_key: str
    kind: Kind
    text: str


def told(
    task_key: str,
    entries: Sequence[Row],
    decisions: Sequence[Row],
    routes: Sequence[Row],
    evaluations: Sequence[Row],
    task: Task | None,
) -> list[Line]:
    """Every line about a task, in order of time. Rows are those of the store; `task` None: its file is not at hand."""
    lines = [*_spending(task_key, entries), *_limits(task_key, entries, task)]
    lines += [_decision(task_key, row) for row in decisions]
    lines += [_route(task_key, row) for row in routes]
    lines += [_verdict(task_key, row) for row in evaluations]
    if task is not None and entries:
        lines += _prices(task, since=min(row["time"] for row in entries), until=max(row["time"] for row in entries))
    return sorted(lines, key=lambda line: (line.time, _ORDER.index(line.kind)))


def _spending(task_key: str, entries: Sequence[Row]) -> Iterable[Line]:
    for day, rows in by_day(entries).items():
        found = summarise(rows)
        kinds = sorted(found.spent_by_kind.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{_NAMES.get(kind, kind)} {_usd(usd)}" for kind, usd in kinds if usd > 0)
        share = f", {found.served_by['student'] / found.requests:.0%} of them by the student" if found.requests else ""
        net, known = found.net, found.net_saving_usd
        saved = f"saved {_usd(known)}" if known >= 0 else f"which is {_usd(-known)} more"
        if net is not None and net.upper - net.lower > 1e-9:
            saved = f"saved {_usd(net.estimate)} ({_usd(net.lower)} to {_usd(net.upper)}, by {net.n} audits)"
        alone = found.teacher_only_usd if found.sampled is None else found.sampled.estimate
        yield Line(
            max(row["time"] for row in rows),
            task_key,
            "spending",
            f"{day}: {found.requests:,} requests answered{share}; spent {_usd(found.spent_usd)}"
            f"{f' ({parts})' if parts else ''}; the teacher alone {_usd(alone)}, {saved}",
        )


def _limits(task_key: str, entries: Sequence[Row], task: Task | None) -> Iterable[Line]:
    refused = [row for row in entries if row["served_by"] is None and row["reason"] == "budget"]
    for rows in by_day(refused).values():
        times = [row["time"] for row in rows]
        choice = f" (at_limit = {task.budget.at_limit})" if task is not None else ""
        yield Line(
            min(times),
            task_key,
            "limit",
            f"money ran out: {len(rows):,} requests got the error `budget`, the last at {max(times):%H:%M:%S}{choice}",
        )


def _decision(task_key: str, row: Row) -> Line:
    at, event = row["time"], row["event"]
    match row["type"]:
        case BudgetEvaluated.TYPE:
            budget = BudgetEvaluated.model_validate_json(event)
            numbers = ", ".join(f"{name.replace('_', ' ')} {value:,.4g}" for name, value in budget.numbers.items())
            return Line(at, task_key, "budget", f"budget: {budget.strategy}, {budget.reason} [{numbers}]")
        case DriftDetected.TYPE:
            drift = DriftDetected.model_validate_json(event)
            return Line(
                at,
                task_key,
                "alarm",
                f"alarm: {drift.student_id} agreed on {drift.estimate:.1%} ({drift.lower:.1%} to {drift.upper:.1%}) of "
                f"the last {drift.window:,} audits, after {drift.audits:,}",
            )
        case StudentTrained.TYPE:
            trained = StudentTrained.model_validate_json(event)
            data = trained.dataset
            return Line(
                at,
                task_key,
                "training",
                f"trained {trained.student_id} on {data.n_train:,} examples in {trained.cpu_seconds:,.0f} CPU seconds",
            )
        case TrainingFailed.TYPE:
            failed = TrainingFailed.model_validate_json(event)
            return Line(at, task_key, "training", f"a training of {failed.architecture} failed: {failed.error}")
    return Line(at, task_key, "budget", f"{row['type']}: {event}")


def _route(task_key: str, row: Row) -> Line:
    route = RouteChanged.model_validate_json(row["event"])
    who = route.live or route.candidate
    serving = f"{route.stage} with {who.student_id}" if who is not None else "the teacher answers"
    return Line(
        row["time"],
        task_key,
        "route",
        f"route {route.version}: {serving}, because {route.reason or 'nothing was said'} (by {route.changed_by})",
    )


def _verdict(task_key: str, row: Row) -> Line:
    estimate = f", agreement {row['estimate']:.1%}" if row["estimate"] is not None else ""
    calls = f", {row['teacher_calls']:,} teacher calls for it" if row["teacher_calls"] else ""
    return Line(
        row["time"],
        task_key,
        "verdict",
        f"{row['stage']} gate of {row['student_id']}: {row['verdict']} on {row['n']:,} cases{estimate}{calls}: "
        f"{row['reason']}",
    )


def _prices(task: Task, since: datetime, until: datetime) -> Iterable[Line]:
    """Each change of a price that this task pays, while it was in use."""
    call, hour = task.teacher.usd_per_call, task.budget.usd_per_cpu_hour
    for entry in task.prices.entries:
        changes = []
        if (usd := entry.usd_per_call.get(task.key)) is not None and usd != call:
            changes.append(f"a call of the teacher costs {usd:g} USD instead of {call:g}")
            call = usd
        if (usd := entry.usd_per_cpu_hour) is not None and usd != hour:
            changes.append(f"an hour of CPU time costs {usd:g} USD instead of {hour:g}")
            hour = usd
        if entry.usd_per_gb_month is not None:
            changes.append(f"a gigabyte costs {entry.usd_per_gb_month:g} USD a month")
        if changes and since <= entry.valid_from <= until:
            text = f"prices: from {entry.valid_from:%Y-%m-%d} on, {'; '.join(changes)} ({entry.source})"
            yield Line(entry.valid_from, task.key, "price", text)


def _usd(usd: float) -> str:
    """Dollars, as many digits as tell something."""
    return f"{usd:,.2f} USD" if abs(usd) >= 1 or usd == 0 else f"{usd:.3g} USD"
