"""Writes batches of events to the store, and says which examples are in it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol, TypeVar

from services.observer.recording import (
    audit_entry,
    audit_row,
    audited_example,
    completed_entry,
    completed_example,
    cost_entry,
    decision_row,
    recorded,
    review_row,
    route_row,
)
from stillhouse.bus.metering import Meter
from stillhouse.events import CostIncurred, Event, ExampleReviewed, InferenceAudited, InferenceCompleted, RouteChanged
from stillhouse.store import Store
from stillhouse.store.rows import ExampleRow, LedgerRow
from stillhouse.tasks import Task
from stillhouse.telemetry.metrics import metrics

FULL_BATCH: Final = 500

E = TypeVar("E", bound=Event)


class Publish(Protocol):
    """How events leave: into the trace `traceparent`, or the current one."""

    async def __call__(self, event: Event, *, traceparent: str | None = None) -> None:
        """Raises `KafkaError`."""


class FirstTimes:
    """The times under which this process saw the newest events first.

    An event that its service said again after a crash has its old id and a new time, and the store looks for an id
    only where its time is.
    """

    def __init__(self, size: int = 100_000) -> None:
        self._size = size
        self._times: dict[str, datetime] = {}

    def restore(self, event: E, name: str) -> E:
        """`event` under the time that `name` had first; the oldest names are forgotten."""
        first = self._times.setdefault(name, event.time)
        if len(self._times) > self._size:
            del self._times[next(iter(self._times))]
        return event if first == event.time else event.model_copy(update={"time": first})


class Recorder:
    """Every method may be given the same events again: rows merge on their ids, and events repeat theirs.

    What is written last is what an event is counted by: where it is there already, everything before it is too.
    All raise what the store raises; nothing is acknowledged then, and the batch comes again.
    """

    def __init__(
        self, store: Store, publish: Publish, tasks: Mapping[str, Task], meter: Meter, *, pause_s: float = 0.0
    ) -> None:
        """`tasks` are the declared ones, by key: the only ones that may become a metric's label."""
        self._store = store
        self._publish = publish
        self._tasks = tasks
        self._meter = meter
        self._pause_s = pause_s
        self._completed, self._audited, self._others = FirstTimes(), FirstTimes(), FirstTimes()

    async def completed(self, events: Sequence[InferenceCompleted], traces: Mapping[str, str]) -> None:
        """Examples and ledger entries of answered requests. `traces`: event id to traceparent."""
        events = [self._completed.restore(event, f"{event.task_key}/{event.request_id}") for event in events]

        def write() -> tuple[list[ExampleRow], set[str], int]:
            examples = [row for row in map(completed_example, events) if row is not None]
            new = self._store.append_examples(examples) if examples else set()
            return examples, new, len(self._book([completed_entry(event) for event in events]))

        if events:
            by_request = {event.request_id: traces[event.id] for event in events if event.id in traces}
            await self._say(*await asyncio.to_thread(write), len(events), by_request)

    async def audited(self, events: Sequence[InferenceAudited], traces: Mapping[str, str]) -> None:
        """Audits, what they cost, and the teacher's answers in them."""
        # By request, not by audit: the audits of two students share their example.
        events = [self._audited.restore(event, f"{event.task_key}/{event.request_id}") for event in events]

        def write() -> tuple[list[ExampleRow], set[str], int]:
            examples = [row for row in map(audited_example, events) if row is not None]
            new = self._store.append_examples(examples) if examples else set()
            self._book([audit_entry(event) for event in events])
            return examples, new, len(self._store.append_audits([audit_row(event) for event in events]))

        if events:
            by_request = {event.request_id: traces[event.id] for event in events if event.id in traces}
            await self._say(*await asyncio.to_thread(write), len(events), by_request)

    async def costs(self, events: Sequence[CostIncurred]) -> None:
        """Overheads that other services report."""
        events = [self._others.restore(event, event.id) for event in events]
        if events:
            new = await asyncio.to_thread(
                self._book, [cost_entry(event, self._tasks.get(event.task_key)) for event in events]
            )
            await self._say([], set(), len(new), len(events), {})

    async def routes(self, events: Sequence[RouteChanged]) -> None:
        """The history of who served."""
        events = [self._others.restore(event, event.id) for event in events]
        if events:
            new = await asyncio.to_thread(self._store.append_routes, [route_row(event) for event in events])
            await self._say([], set(), len(new), len(events), {})

    async def reviews(self, events: Sequence[ExampleReviewed]) -> None:
        """What people said; in whatever order it comes, the latest by its own time holds."""
        if events:
            new = await asyncio.to_thread(self._store.append_reviews, [review_row(event) for event in events])
            await self._say([], set(), len(new), len(events), {})

    async def decisions(self, events: Sequence[Event]) -> None:
        """Why things are as they are."""
        events = [self._others.restore(event, event.id) for event in events]
        if events:
            new = await asyncio.to_thread(self._store.append_decisions, [decision_row(event) for event in events])
            await self._say([], set(), len(new), len(events), {})

    def _book(self, entries: Sequence[LedgerRow]) -> set[str]:
        """Ids of the new ledger entries; what they cost is counted once."""
        new = self._store.append_ledger(entries)
        for entry in {entry.entry_id: entry for entry in entries if entry.entry_id in new}.values():
            self._meter.count(f"{entry.tenant}/{entry.task}")
            metrics().spent_usd.labels(self._label(entry), entry.kind).inc(max(0.0, entry.usd))
        return new

    def _label(self, row: ExampleRow | LedgerRow) -> str:
        key = f"{row.tenant}/{row.task}"
        return key if key in self._tasks else "unknown"

    async def _say(
        self, examples: Sequence[ExampleRow], new: set[str], counted: int, taken: int, traces: Mapping[str, str]
    ) -> None:
        # All of them, not only the new ones: whoever wrote them may have died before it could say so.
        said = {event.id: event for event in map(recorded, examples)}.values()
        await asyncio.gather(*(self._publish(event, traceparent=traces.get(event.request_id)) for event in said))
        for row in {row.example_id: row for row in examples if row.example_id in new}.values():
            metrics().examples_recorded.labels(self._label(row), row.sample).inc()
        metrics().duplicates_suppressed.labels("observer").inc(taken - counted)
        if taken < FULL_BATCH:
            await asyncio.sleep(self._pause_s)
