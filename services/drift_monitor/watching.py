"""Follows routes, audits and answers; says `drift.detected` and `drift.cleared`, each once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog
from opentelemetry import trace

from services.drift_monitor.looking import Looking
from services.drift_monitor.standing import Standing, alarmed, cleared, concerns, routed
from services.drift_monitor.states import States
from services.drift_monitor.watch import alarm
from stillhouse.events import Event, InferenceAudited, InferenceCompleted, RouteChanged
from stillhouse.tasks import Task
from stillhouse.telemetry import names
from stillhouse.telemetry.metrics import metrics
from stillhouse.telemetry.tracing import span_context_of, traceparent_of

ASK_S: Final = 30.0  # between two looks at whether a teacher is to be asked again

log = structlog.get_logger()


class Publish(Protocol):
    """How events leave, in the current span's trace."""

    async def __call__(self, event: Event) -> None:
        """Raises `KafkaError`."""


class Watching:
    """One sequential test for each live student. An event is published before it is marked as said."""

    def __init__(self, tasks: Mapping[str, Task], states: States, looking: Looking, publish: Publish) -> None:
        self._tasks = tasks
        self._states = states
        self._looking = looking
        self._publish = publish
        # Audits and routes come by different subscriptions; no alarm may overtake the route that replaces its student.
        self._one_at_a_time = asyncio.Lock()
        for key in tasks:  # from 0: a first alarm is a rise that an alert sees
            metrics().drift_alarms.labels(key)

    async def audited(self, audits: Sequence[InferenceAudited]) -> None:
        """Count a batch of audits, in order, each into the test of the student that it is about."""
        by_student: dict[tuple[str, str], list[InferenceAudited]] = {}
        for audit in audits:
            if audit.stage == "live" and audit.task_key in self._tasks:
                by_student.setdefault((audit.task_key, audit.student_id), []).append(audit)
        for (task_key, student_id), of_student in by_student.items():
            async with self._one_at_a_time:
                await self._count(self._tasks[task_key], student_id, of_student)

    async def completed(self, events: Sequence[InferenceCompleted]) -> None:
        """Look at a batch of answers, for what can be seen without labels."""
        by_task: dict[str, list[InferenceCompleted]] = {}
        for event in events:
            if event.task_key in self._tasks and event.purpose in ("serve", "gate"):
                by_task.setdefault(event.task_key, []).append(event)
        for task_key, of_task in by_task.items():
            async with self._one_at_a_time:
                standing = await self._states.standing(task_key)
                if standing.live not in (None, standing.alarmed):
                    served = [event for event in of_task if event.purpose == "serve"]
                    await self._looking.completed(self._tasks[task_key], standing, served)
                    if len(served) < len(of_task):
                        await self._looking.reasked(self._tasks[task_key], standing, of_task)

    async def ask_regularly(self) -> None:
        """Ask the teachers of live students again what they once answered, a few times a day, until cancelled."""
        while True:
            for task in self._tasks.values():
                try:
                    await self.ask(task, datetime.now(UTC))
                except Exception as error:  # Redis or the broker is away: later is soon enough
                    log.warning("teacher_not_asked", task=task.key, error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(ASK_S)

    async def ask(self, task: Task, now: datetime) -> None:
        """Ask the teacher of one task again, if its student is live and it is time to."""
        async with self._one_at_a_time:
            standing = await self._states.standing(task.key)
            if standing.live not in (None, standing.alarmed):
                await self._looking.ask_again(task, standing, now)

    async def _count(self, task: Task, student_id: str, audits: Sequence[InferenceAudited]) -> None:
        standing = await self._states.standing(task.key)
        concerning = [audit for audit in audits if concerns(standing, audit)]
        if not concerning:
            return
        state = await self._states.add(task, student_id, concerning)
        metrics().drift_statistic.labels(task.key).set(state.test.statistic)
        if not state.test.alarm:
            if student_id == standing.live:
                await self._looking.audited(task, standing, concerning, state.test.n)
            return
        if not state.announced:
            event = alarm(state, concerning[-1])
            with _student_span(standing) as span:
                span.set_attribute(names.ATTR_TASK, task.key)
                span.set_attribute(names.ATTR_STUDENT_ID, student_id)
                await self._publish(event)
            metrics().drift_alarms.labels(task.key).inc()
            log.warning(
                "drift_detected",
                task=task.key,
                student_id=student_id,
                audits=event.audits,
                agreement=round(event.estimate, 4),
                runbook=event.runbook,
            )
            await self._states.announced(task.key, student_id)
        await self._states.change(task.key, lambda standing: alarmed(standing, student_id))

    async def routed(self, route: RouteChanged) -> None:
        """Another student serves, or none: the test of the one before is over, and perhaps its alarm too."""
        if route.task_key not in self._tasks:
            return
        async with self._one_at_a_time:
            before = await self._states.standing(route.task_key)
            event = cleared(before, route)
            if event is not None:
                await self._publish(event)
                log.info("drift_cleared", task=route.task_key, student_id=event.student_id)
            traceparent = traceparent_of(trace.get_current_span())
            after = await self._states.change(route.task_key, lambda standing: routed(standing, route, traceparent))
            if before.live is not None and before.live != after.live:
                await self._states.retire(route.task_key, before.live)
                await self._looking.retire(route.task_key, before.live)
                metrics().drift_statistic.labels(route.task_key).set(0.0)


def _student_span(standing: Standing) -> AbstractContextManager[trace.Span]:
    """A span in the trace that the student's going live was part of: its life is one trace."""
    parent = span_context_of(standing.traceparent)
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent)) if parent else None
    return trace.get_tracer("stillhouse.drift").start_as_current_span(names.SPAN_DRIFT, context=context)
