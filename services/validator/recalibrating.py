"""Follows the audits of live students and says, every so many, what threshold they certify."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import structlog

from services.validator.recalibration import Case, case_of, recalibrate, unproven
from stillhouse.bus.jobs import read_json, write_json
from stillhouse.events import (
    Event,
    InferenceAudited,
    RouteChanged,
    ThresholdRecalibrated,
    follow_id,
)
from stillhouse.quality.agreement import exact
from stillhouse.store import Store
from stillhouse.tasks import Task
from stillhouse.tasks.comparators import Comparison

ROUNDS_FILE: Final = "recalibration.json"

log = structlog.get_logger()


class Recalibrating:
    """One series of rounds for each student, kept in its evaluation's folder; a round is written, then published."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        store: Store,
        publish: Callable[[Event], Awaitable[None]],
        home: Path,
        comparisons: Mapping[str, Comparison] | None = None,
    ) -> None:
        """`comparisons` are those of tasks whose answers need not be equal to be the same."""
        self._tasks = tasks
        self._store = store
        self._publish = publish
        self._home = home
        self._comparisons = comparisons or {}
        self._wanted: dict[str, int] = {}  # task key -> audits until there may be a round
        self._dirty: set[str] = set()

    def audited(self, audits: Sequence[InferenceAudited]) -> None:
        """Count live audits, so that the store is only read when there may be a round."""
        for audit in audits:
            task = self._tasks.get(audit.task_key)
            if audit.stage == "live" and task is not None and task.cascade.recalibrate_every:
                self._wanted[task.key] = self._wanted.get(task.key, 0) - 1
                if self._wanted[task.key] <= 0:
                    self._dirty.add(task.key)

    async def check_regularly(self, every_s: float) -> None:
        """Look at the tasks that may have a round, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            for key in sorted(self._dirty):
                try:
                    await self.check(self._tasks[key])
                except Exception:
                    log.exception("recalibration_failed", task=key)

    async def check(self, task: Task) -> ThresholdRecalibrated | None:
        """A round, where the live student has audits enough for one; it is published once."""
        route = await asyncio.to_thread(self._route, task)
        live = route.live if route is not None else None
        self._dirty.discard(task.key)
        if live is None:
            return None
        path = self._home / "evaluations" / live.student_id / ROUNDS_FILE
        rounds: list[dict[str, Any]] = await asyncio.to_thread(read_json, path) or []
        if rounds and not rounds[-1]["published"]:  # this process died between the two
            return await self._say(path, rounds)
        rows = (await asyncio.to_thread(self._store.audits, task.key, live.student_id)).to_pylist()
        used = {audit_id for done in rounds for audit_id in done["audits"]}
        fresh = [row for row in rows if row["stage"] == "live" and row["audit_id"] not in used]
        self._wanted[task.key] = task.cascade.recalibrate_every - len(fresh)
        if len(fresh) < task.cascade.recalibrate_every:
            return None
        fresh = fresh[: task.cascade.recalibrate_every]
        first = (fresh[0]["time"], fresh[0]["audit_id"])
        earlier = [row for row in rows if (row["time"], row["audit_id"]) < first]
        number = len(rounds) + 1
        compare = self._comparisons.get(task.key)
        same = compare.same if compare is not None else exact

        def cases() -> tuple[list[Case], list[Case]]:  # a comparator may be a user's own, or run an encoder
            return [case_of(row, same) for row in earlier], [case_of(row, same) for row in fresh]

        before, now = await asyncio.to_thread(cases)
        found = recalibrate(task, live, before, now, number)
        event = ThresholdRecalibrated(
            id=follow_id(live.student_id, ThresholdRecalibrated.TYPE, f"{task.key}/{number}"),
            tenant=task.tenant,
            task=task.name,
            student_id=live.student_id,
            round=number,
            previous_threshold=live.threshold,
            unproven_threshold=unproven(task),
            **asdict(found),
        )
        audits = [row["audit_id"] for row in fresh]
        rounds.append({"audits": audits, "published": False, "event": event.model_dump(mode="json")})
        return await self._say(path, rounds)

    async def _say(self, path: Path, rounds: list[dict[str, Any]]) -> ThresholdRecalibrated:
        path.parent.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(write_json, path, rounds)
        event = ThresholdRecalibrated.model_validate(rounds[-1]["event"])
        await self._publish(event)
        rounds[-1]["published"] = True
        await asyncio.to_thread(write_json, path, rounds)
        log.info("recalibrated", task=event.task_key, student_id=event.student_id, moved=event.moved, n=event.n)
        return event

    def _route(self, task: Task) -> RouteChanged | None:
        return next((route for route in self._store.latest_routes() if route.task_key == task.key), None)
