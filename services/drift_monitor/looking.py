"""Follows the requests of live students without labels; says `drift.suspected`, its end, and how much to audit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import structlog

from services.drift_monitor.asking import answered, asked, check, turn_of
from services.drift_monitor.input_states import InputStates
from services.drift_monitor.inputs import TESTS, InputWatch, Observation, audited, observe, said, settled
from services.drift_monitor.novelty import Known
from services.drift_monitor.standing import Standing
from services.drift_monitor.suspicions import audits_wanted, dismissed, suspected, wanted_pi
from stillhouse.events import Event, InferenceAudited, InferenceCompleted
from stillhouse.quality import exact
from stillhouse.store import Store
from stillhouse.tasks import Task
from stillhouse.tasks.comparators import Comparison
from stillhouse.telemetry.metrics import metrics

KINDS: Final = ("outputs", "inputs", "novelty", "teacher_version", "teacher", "latency", "cost")

log = structlog.get_logger()


class Looking:
    """The label-free tests of each live student. Whoever calls sees to it that one call runs at a time.

    Everything is published before it is marked as said.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        states: InputStates,
        store: Store,
        publish: Callable[[Event], Awaitable[None]],
        comparisons: Mapping[str, Comparison] | None = None,
    ) -> None:
        """`comparisons` are those of tasks whose answers need not be equal to be the same."""
        self._tasks = tasks
        self._states = states
        self._store = store
        self._publish = publish
        self._comparisons = comparisons or {}
        self._known: dict[str, tuple[str, Known | None]] = {}  # task key -> student, and what it could know
        for key in tasks:  # from 0: a first suspicion is a rise that an alert sees
            for kind in KINDS:
                metrics().drift_suspicions.labels(key, kind)

    async def completed(self, task: Task, standing: Standing, events: Sequence[InferenceCompleted]) -> None:
        """Count requests that the live student was asked."""
        asked = [event for event in events if event.student is not None and event.student.model == standing.live]
        new = await self._states.unseen(task.key, standing.live or "", asked)
        if not new:
            return
        known = await self._what_is_known(task, standing)

        def look() -> list[Observation]:
            return [observe(event, task, known) for event in new]

        state = await self._states.add(task, standing, await asyncio.to_thread(look), known)
        if (rise := state.rises.get("novelty")) is not None and rise.detector is not None:
            n = rise.detector["detector"]["n"]
            metrics().novel_share.labels(task.key).set(rise.detector["exceeded"] / n if n else 0.0)
        await self._say(task, standing, state)

    async def audited(self, task: Task, standing: Standing, audits: Sequence[InferenceAudited], counted: int) -> None:
        """`counted` audits of the live student were counted without an alarm; these are the newest."""
        teachers = [audit.teacher.model for audit in audits]
        state = await self._states.change(task, standing, lambda state: audited(state, counted, teachers))
        await self._say(task, standing, state)

    async def ask_again(self, task: Task, standing: Standing, now: datetime) -> None:
        """Ask the teacher a recorded request again, if it is time to; a turn that passed unnoticed is not made up."""
        turn = turn_of(task, now)
        state = await self._states.change(task, standing, lambda state: state)
        if turn is None or turn == state.turn:
            return
        found = None
        if state.turn is not None:  # not at once when a student goes live, but after a whole turn
            rows = await asyncio.to_thread(self._recorded, task, standing)
            found = check(task, turn, rows)
        pending = (found[0].id, found[1]) if found is not None else None
        # An answer must not come before it is known what it is compared with.
        await self._states.change(task, standing, lambda state: asked(state, turn, pending))
        if found is not None:
            await self._publish(found[0])

    async def reasked(self, task: Task, standing: Standing, events: Sequence[InferenceCompleted]) -> None:
        """The teacher's answers to what it was asked again, among others."""
        compare = self._comparisons.get(task.key)
        same = compare.same if compare is not None else exact
        state = await self._states.change(task, standing, lambda state: answered(task, state, events, same))
        await self._say(task, standing, state)

    async def retire(self, task_key: str, student_id: str) -> None:
        """Another student is live, or none: what was suspected is of no interest any more."""
        await self._states.retire(task_key, student_id)
        metrics().novel_share.labels(task_key).set(0.0)

    async def _say(self, task: Task, standing: Standing, state: InputWatch) -> None:
        student_id = standing.live or ""
        for suspicion in state.suspicions:
            if suspicion.announced:
                continue
            event = suspected(task, student_id, suspicion)
            await self._publish(event)
            metrics().drift_suspicions.labels(task.key, suspicion.kind).inc()
            log.warning("drift_suspected", task=task.key, student_id=student_id, kind=event.kind, note=event.note)
            number = suspicion.number
            state = await self._states.change(task, standing, lambda state, number=number: said(state, number))  # type: ignore[misc]
        _, over = settled(task, state)
        for suspicion in over:
            await self._publish(dismissed(task, student_id, suspicion))
            log.info("drift_suspicion_over", task=task.key, student_id=student_id, kind=suspicion.kind)
        if over:
            state = await self._states.change(task, standing, lambda state: settled(task, state)[0])
        a_day = state.volume.a_day() if state.volume is not None else None
        pi = wanted_pi(task, state.suspicions, a_day)
        if pi != state.asked_pi:
            await self._publish(audits_wanted(task, student_id, pi, state.suspicions, state.asked))
            log.info("audits_wanted", task=task.key, student_id=student_id, pi=pi)
            await self._states.change(
                task,
                standing,
                lambda state: state.model_copy(update={"asked_pi": pi, "asked": state.asked + 1}),
            )

    async def _what_is_known(self, task: Task, standing: Standing) -> Known | None:
        """The texts that were recorded before the student was live; read once."""
        student_id, known = self._known.get(task.key, ("", None))
        if student_id == standing.live or not task.drift.false_suspicions:
            return known

        def learn() -> Known | None:
            rows = self._recorded(task, standing)
            # A text that is asked again and again is known once; it must not make the limit.
            texts = list({row["input_sha256"]: row["input"] for row in rows}.values())
            delta = task.drift.false_suspicions / TESTS / 2
            return Known.learn(texts[-task.budget.max_train_examples :], delta)

        known = await asyncio.to_thread(learn)
        self._known[task.key] = (standing.live or "", known)
        return known

    def _recorded(self, task: Task, standing: Standing) -> list[dict[str, Any]]:
        """What was recorded before the student was live. Blocking."""
        columns = ["input", "input_sha256", "output", "provenance", "redactions"]
        rows: list[dict[str, Any]] = self._store.examples(task.key, until=standing.since).select(columns).to_pylist()
        return rows
