"""The budget controller: what was measured, set against the task's limits and target, added to every decision."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from services.trainer.policy import Decision
from stillhouse.bus.spending import Accounts
from stillhouse.economics.controller import Outlook, Usage, against_student, beside_target, outlook
from stillhouse.economics.limits import PERIODS, begin_of, name_of
from stillhouse.events import CostIncurred
from stillhouse.store import Store
from stillhouse.tasks import Task

WINDOW_DAYS: Final = 7  # traffic has a weekly rhythm
FRESH_S: Final = 600.0  # so long an outlook holds: it takes a week of the ledger
MOST_ROWS: Final = 200_000  # taken into memory: a busy task is measured over less than a week
LEAST: Final = timedelta(minutes=10)
FEWEST: Final = 50  # requests, without which a rate says nothing
LEASE_S: Final = 3600.0  # routers give back what is older; here it is only looked at
ONCE: Final = frozenset({"training", "gate", "backfill"})
RUNNING: Final = frozenset({"storage", "capture", "routing", "review"})


class BudgetControl:
    """Knows what tasks spend. Decisions come from the policy; this adds what money says about them."""

    def __init__(
        self, store: Store, accounts: Accounts, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._clock = clock
        self._outlooks: dict[str, tuple[datetime, str | None, Outlook | None, float | None]] = {}

    async def charge(self, task: Task, event: CostIncurred) -> None:
        """An overhead counts towards the limits of its task. Raises what Redis raises, and then comes again."""
        if task.budget.limits.any:
            usd = event.usd or task.usd_of(event.time, event.gpu_seconds, event.human_minutes)
            await self._accounts.charge(task.key, event.id, usd)

    async def weigh(self, task: Task, decision: Decision, live: str | None) -> Decision:
        """`decision` with the measured numbers, and without its training where money speaks against it."""
        found, per_1000 = await self._outlook(task, live)
        if found is not None:
            decision = replace(decision, numbers=decision.numbers | found.numbers())
        if live is not None:
            decision = replace(decision, reason=decision.reason + beside_target(per_1000, task.budget.usd_per_1000))
        elif found is not None and decision.plan is not None and decision.reason != "a student was asked for":
            against = against_student(found, task.budget.horizon_requests, task.budget.usd_per_1000)
            if against is not None:
                return replace(decision, strategy="no_change", reason=against, plan=None)
        return await self._within_limits(task, decision)

    async def _within_limits(self, task: Task, decision: Decision) -> Decision:
        limits, now = task.budget.limits, self._clock()
        if not limits.any:
            return decision
        standing = await self._accounts.look(task.key, LEASE_S)
        for period in PERIODS:
            limit = limits.usd(period)
            if limit is None:
                continue
            spent = standing.spent_usd[period]
            decision = replace(
                decision, numbers=decision.numbers | {f"spent_usd_{period}": spent, f"limit_usd_{period}": limit}
            )
            if spent + task.most_usd(now) > limit * (1.0 - limits.kept_back):
                reached = f"the limit of {name_of(period, now)} is reached ({limit:g} USD a {period}): "
                meanwhile = {
                    "student_only": "the student answers what it may, the rest is refused",
                    "queue": "the student answers what it may, the rest waits",
                    "reject": "everything is refused",
                }[task.budget.at_limit]
                training = "; no training begins" if decision.plan is not None else ""
                return replace(decision, reason=f"{reached}{meanwhile}{training}; {decision.reason}", plan=None)
        return decision

    async def _outlook(self, task: Task, live: str | None) -> tuple[Outlook | None, float | None]:
        """What the last week comes to, and what 1,000 requests cost in it, everything included."""
        kept, now = self._outlooks.get(task.key), self._clock()
        if kept is not None and kept[1] == live and abs((now - kept[0]).total_seconds()) < FRESH_S:
            return kept[2], kept[3]
        since = begin_of("day", now) - timedelta(days=WINDOW_DAYS)
        while now - since > LEAST and await asyncio.to_thread(self._store.count_ledger, task.key, since) > MOST_ROWS:
            since = now - (now - since) / 2
        columns = ["time", "kind", "purpose", "usd", "teacher_usd", "served_by"]
        table = await asyncio.to_thread(self._store.ledger, task.key, since)
        rows = await asyncio.to_thread(table.select(columns).to_pylist)
        usage = usage_of(rows, now, measured=live is not None)
        found = per_1000 = None
        if usage is not None:
            found = outlook(usage, task.audit.pi, task.gate.min_coverage)
            spent = sum(row["usd"] for row in rows if row["purpose"] != "observe")
            per_1000 = 1000 * spent / sum(map(_is_request, rows))
        self._outlooks[task.key] = (now, live, found, per_1000)
        return found, per_1000


def usage_of(rows: list[Mapping[str, Any]], now: datetime, *, measured: bool) -> Usage | None:
    """What ledger entries say of a task; None: too few requests. `measured`: a student serves, the coverage is its."""
    answered = [row for row in rows if _is_request(row)]
    if len(answered) < FEWEST:
        return None
    teacher = [row["teacher_usd"] for row in answered if row["served_by"] == "teacher"]
    student = [row["usd"] for row in answered if row["served_by"] == "student"]
    first, today = min(row["time"] for row in answered), name_of("day", now)
    days: dict[str, int] = {}
    for row in answered:
        day = name_of("day", row["time"])
        days[day] = days.get(day, 0) + 1
    whole = [count for day, count in sorted(days.items()) if day not in (today, name_of("day", first))]
    length = max((now - first).total_seconds() / 86_400, 1e-9)
    spent = {kinds: sum(row["usd"] for row in rows if row["kind"] in kinds) for kinds in (RUNNING, ONCE)}
    return Usage(
        requests=whole if len(whole) >= 3 else [len(answered)],
        days=length,
        teacher_usd=sum(teacher) / len(teacher)
        if teacher
        else sum(row["teacher_usd"] for row in answered) / len(answered),
        student_usd=sum(student) / len(student) if student else None,
        coverage=len(student) / len(answered) if measured else None,
        running_usd=spent[RUNNING] / max(length, 1.0),
        once_usd=spent[ONCE],
    )


def _is_request(row: Mapping[str, Any]) -> bool:
    return row["kind"] == "request" and row["purpose"] == "serve" and row["served_by"] is not None
