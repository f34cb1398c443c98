"""What was spent and what was saved, net of every overhead: a summary of ledger entries.

The counterfactual is the teacher alone: what it cost where it was asked, its list price where it was not. Where audits
measured what it costs, the part that was not asked is estimated from them, with an interval. Requests that Stillhouse
sends for itself (`purpose` gate or backfill) are overheads. Requests that an application observed at its own teacher
(`observe`) are neither spent nor saved here, because Stillhouse answered none of them; they are counted apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from stillhouse.economics.counterfactual import Interval, teacher_total
from stillhouse.economics.limits import name_of
from stillhouse.economics.prices import cpu_usd


@dataclass(frozen=True, slots=True)
class CostPer1k:
    """USD for 1,000 requests; None where nothing was measured.

    `teacher`: its list price. `net`: everything that was spent, overheads included. `teacher_cpu`, `student_cpu`: 1,000
    calls of each at the price of their measured CPU time, whatever their list price.
    """

    teacher: float | None
    net: float | None
    teacher_cpu: float | None
    student_cpu: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """The ledger after one more entry: requests, and cumulated USD with Stillhouse and with the teacher alone."""

    time: datetime
    requests: int
    spent_usd: float
    teacher_only_usd: float


@dataclass(frozen=True, slots=True)
class Savings:
    """A summary of ledger entries. Amounts in USD.

    `spent_by_kind` holds `request` and each kind of overhead; audits of students in shadow or canary are `shadow`.
    `sampled` is what the teacher alone would have cost by the audits; None: too few of them measured that. Calls count
    every entry with measured CPU time of that model, audits included. `series` is in order of time.
    """

    requests: int
    failed: int
    observed: int
    served_by: dict[str, int]
    spent_by_kind: dict[str, float]
    spent_usd: float
    overhead_usd: float
    teacher_only_usd: float
    net_saving_usd: float
    teacher_calls: int
    student_calls: int
    teacher_cpu_ms: float
    student_cpu_ms: float
    overhead_cpu_seconds: float
    sampled: Interval | None
    series: list[Point] = field(repr=False)

    @property
    def net(self) -> Interval | None:
        """What was saved, by the audits."""
        found = self.sampled
        if found is None:
            return None
        spent = self.spent_usd
        return Interval(found.estimate - spent, found.lower - spent, found.upper - spent, found.n)

    def cost_per_1k(self, usd_per_cpu_hour: float) -> CostPer1k:
        """Costs of 1,000 requests, CPU time at `usd_per_cpu_hour`."""
        return CostPer1k(
            teacher=_per_1k(self.teacher_only_usd, self.requests),
            net=_per_1k(self.spent_usd, self.requests),
            teacher_cpu=_per_1k(cpu_usd(self.teacher_cpu_ms, usd_per_cpu_hour), self.teacher_calls),
            student_cpu=_per_1k(cpu_usd(self.student_cpu_ms, usd_per_cpu_hour), self.student_calls),
        )


def summarise(rows: Iterable[Mapping[str, Any]], points: int = 500) -> Savings:
    """Sum up ledger entries, given as mappings with the fields of `stillhouse.store.LedgerRow`, in any order.

    Requests without an answer (`served_by` is null) are counted as failed: they cost nothing, and save nothing. Of the
    series about `points` evenly spaced entries are kept, the last one always.
    """
    everything = sorted(rows, key=lambda row: row["time"])
    entries = [row for row in everything if row["purpose"] != "observe"]
    step = max(1, len(entries) // points)
    served: dict[str, int] = {"teacher": 0, "student": 0}
    by_kind: dict[str, float] = defaultdict(float)
    requests = failed = teacher_calls = student_calls = 0
    teacher_only = spent = teacher_cpu = student_cpu = cpu_seconds = 0.0
    series: list[Point] = []
    asked_usd, unasked = 0.0, 0
    audits: list[tuple[float, float]] = []
    for number, row in enumerate(entries, start=1):
        is_request = row["kind"] == "request" and row["purpose"] == "serve"
        usd = float(row["usd"])
        by_kind[_kind(row, is_request)] += usd
        spent += usd
        if is_request and row["served_by"] is None:
            failed += 1
        elif is_request:
            requests += 1
            served[row["served_by"]] += 1
            teacher_only += float(row["teacher_usd"])
            asked_usd += float(row["teacher_usd"]) if row["served_by"] == "teacher" else 0.0
            unasked += row["served_by"] == "student"
        if row.get("pi") and row.get("sampled_teacher_usd") is not None:
            audits.append((float(row["sampled_teacher_usd"]), float(row["pi"])))
        teacher_calls += row["teacher_cpu_ms"] > 0
        student_calls += row["student_cpu_ms"] > 0
        teacher_cpu += float(row["teacher_cpu_ms"])
        student_cpu += float(row["student_cpu_ms"])
        cpu_seconds += float(row["cpu_seconds"])
        if number % step == 0 or number == len(entries):
            series.append(Point(row["time"], requests, spent, teacher_only))
    sampled = teacher_total(unasked, audits)
    if sampled is not None:
        low, high = asked_usd + sampled.lower, asked_usd + sampled.upper
        sampled = Interval(asked_usd + sampled.estimate, low, high, sampled.n)
    return Savings(
        requests=requests,
        failed=failed,
        observed=len(everything) - len(entries),
        served_by=served,
        spent_by_kind=dict(by_kind),
        spent_usd=spent,
        overhead_usd=spent - by_kind.get("request", 0.0),
        teacher_only_usd=teacher_only,
        net_saving_usd=teacher_only - spent,
        teacher_calls=teacher_calls,
        student_calls=student_calls,
        teacher_cpu_ms=teacher_cpu,
        student_cpu_ms=student_cpu,
        overhead_cpu_seconds=cpu_seconds,
        sampled=sampled,
        series=series,
    )


def by_day(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Ledger entries by their day in UTC, in order."""
    days: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        days[name_of("day", row["time"])].append(row)
    return dict(sorted(days.items()))


def _kind(row: Mapping[str, Any], is_request: bool) -> str:
    if row["kind"] == "request" and not is_request:
        return str(row["purpose"])
    if row["kind"] == "audit" and row["stage"] in ("shadow", "canary"):
        return "shadow"
    return str(row["kind"])


def _per_1k(usd: float, count: int) -> float | None:
    return usd / count * 1000 if count else None
