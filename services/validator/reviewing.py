"""The review queue: finds cases in what the observer recorded, says that they wait, and books what people's time costs.

The queue is a table of the store and nothing else: whatever Redis or the log forgets, it is there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog

from services.validator.review import choose_cases, requested
from stillhouse.events import CostIncurred, Event, ReviewResolved, follow_id
from stillhouse.quality.corrections import suspect_labels
from stillhouse.store import Store
from stillhouse.tasks import Task

CATCH_UP: Final = timedelta(days=1)  # how far back a new process looks
OVERLAP: Final = timedelta(minutes=2)  # partitions are recorded one after the other: rows come out of order
LATELY: Final = 20_000  # answers; when more are counted, all that was before counts half

Publish = Callable[[Event], Awaitable[None]]
log = structlog.get_logger()


@dataclass(slots=True)
class _Seen:
    """What this process has looked at, of one task."""

    until: datetime
    said: Counter[str] = field(default_factory=Counter)
    counted: set[str] = field(default_factory=set)  # example ids of the overlap
    unsaid: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # cases in the table, perhaps not in the log


class Reviewing:
    """Looks regularly; a case is in the store before it is said, and is said again where that is not known."""

    def __init__(self, tasks: Mapping[str, Task], store: Store, publish: Publish, *, look_s: float = 10.0) -> None:
        self._tasks = tasks
        self._store = store
        self._publish = publish
        self._look_s = look_s
        self._seen: dict[str, _Seen] = {}

    async def look_regularly(self) -> None:
        """Look at every task, until cancelled."""
        while True:
            for task in self._tasks.values():
                try:
                    await self.look(task)
                except Exception:
                    log.exception("review_look_failed", task=task.key)
            await asyncio.sleep(self._look_s)

    async def look(self, task: Task) -> int:
        """Take new cases of one task into the queue, and say them; gives how many were said."""
        seen = self._seen.get(task.key)
        if seen is None:
            seen = await asyncio.to_thread(self._begin, task)
            self._seen[task.key] = seen
        await asyncio.to_thread(self._choose, task, seen)
        waiting = list(seen.unsaid)
        for case_id in waiting:
            await self._publish(requested(seen.unsaid[case_id]))
            del seen.unsaid[case_id]
        return len(waiting)

    def _begin(self, task: Task) -> _Seen:
        """As after a start: whoever wrote the last day's cases may have died before it could say so."""
        since = datetime.now(UTC) - CATCH_UP
        reviewed = set(self._store.reviews(task.key)["case_id"].to_pylist())
        cases = self._store.cases(task.key, since).to_pylist()
        return _Seen(since, unsaid={row["case_id"]: row for row in cases if row["case_id"] not in reviewed})

    def _choose(self, task: Task, seen: _Seen) -> None:
        since = seen.until - OVERLAP
        answers = self._store.answers(task.key, since).to_pylist()
        if not answers:
            return
        for row in answers:
            if row["example_id"] not in seen.counted and row["provenance"] != "policy":
                seen.said[row["output"]] += 1
        if seen.said.total() > LATELY:
            seen.said = Counter({label: count // 2 for label, count in seen.said.items()})
        suspects: set[str] = set()
        if task.labels:
            suspects = suspect_labels(
                self._store.reviews(task.key).to_pylist(),
                teacher_version=answers[-1]["teacher_version"],
                ceiling=task.review.max_corrected,
                labels=len(task.labels),
            )
        taken = self._store.cases(task.key, answers[0]["time"] - timedelta(days=task.review.keep_days)).to_pylist()
        cases = choose_cases(
            task, answers, self._store.comparisons(task.key, since).to_pylist(), taken, seen.said, suspects
        )
        seen.unsaid |= {case.case_id: asdict(case) for case in cases}
        self._store.append_cases(cases)
        # A clock that was ahead must not make this look past everything else.
        seen.until = max(seen.until, min(answers[-1]["time"], datetime.now(UTC)))
        seen.counted = {row["example_id"] for row in answers if row["time"] > seen.until - OVERLAP}

    async def resolved(self, event: ReviewResolved) -> None:
        """Book what the person's time cost; the same event twice books it once."""
        task = self._tasks.get(event.task_key)
        if task is None:
            log.warning("unknown_task", task=event.task_key, event_type=event.TYPE)
            return
        minutes = task.review.minutes_per_case if event.minutes is None else event.minutes
        listed = task.prices.usd("usd_per_human_hour", event.time)  # a price book knows prices that change
        cost = CostIncurred(
            id=follow_id(event.id, CostIncurred.TYPE, "review"),
            time=event.time,
            tenant=task.tenant,
            task=task.name,
            cause_id=event.review_id,
            kind="review",
            usd=minutes / 60 * (task.review.usd_per_hour if listed is None else listed),
            human_minutes=minutes,
            note=f"{minutes:g} minutes of a person, {event.reason}",
        )
        await self._publish(cost)
