"""Where task states are kept: Redis, rebuilt from what is durable when Redis comes up empty."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import WatchError

from services.trainer.state import TaskState, fold
from stillhouse.bus.jobs import read_json
from stillhouse.events import DriftDetected, GateDecided, RouteChanged, StudentTrained, TrainingFailed, follow_id
from stillhouse.store import Store
from stillhouse.tasks import Task

OUTCOME_FILE: Final = "outcome.json"  # the event that ended a job, once it is published


class States:
    """Task states by `<tenant>/<task>`. Every change is one compare-and-set, so no two handlers lose one."""

    def __init__(self, redis: Redis, store: Store, home: Path) -> None:
        self._redis = redis
        self._store = store
        self._home = home

    async def get(self, task: Task) -> TaskState:
        """The state of `task`. Raises `redis.RedisError`."""
        return await self.change(task, lambda state: state)

    async def change(self, task: Task, step: Callable[[TaskState], TaskState]) -> TaskState:
        """Apply `step` to the newest state and keep the outcome; `step` may run more than once."""
        key = f"stillhouse:trainer:{task.key}"
        rebuilt: TaskState | None = None
        while True:
            async with self._redis.pipeline(transaction=True) as pipe:
                try:
                    await pipe.watch(key)
                    raw: Any = await pipe.get(key)
                    if raw is not None:
                        before = TaskState.model_validate_json(raw)
                    else:
                        if rebuilt is None:
                            rebuilt = await asyncio.to_thread(rebuild, task, self._store, self._home)
                        before = rebuilt
                    after = step(before)
                    if raw is not None and after == before:
                        return after
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.set(key, after.model_dump_json())
                    await pipe.execute()
                    return after
                except WatchError:
                    continue


def rebuild(task: Task, store: Store, home: Path) -> TaskState:
    """The state of `task` from job folders, evaluations and route history, folded in order of time.

    Blocking. Drift alarms are read off the routes that they changed.
    """
    happened: list[StudentTrained | TrainingFailed | GateDecided | RouteChanged | DriftDetected] = []
    for path in sorted((home / "jobs").glob(f"*/{OUTCOME_FILE}")):
        outcome = read_json(path)
        if outcome and outcome.get("task_key") == task.key:
            happened.append(end_of(outcome))
    for row in store.evaluations(task.key).to_pylist():
        happened.append(
            GateDecided(
                id=row["evaluation_id"],
                time=row["time"],
                tenant=task.tenant,
                task=task.name,
                student_id=row["student_id"],
                stage=row["stage"],
                verdict=row["verdict"],
                reason=row["reason"],
                n=row["n"],
                final=row["final"],
                conditions=(json.loads(row["report_json"]) if row["report_json"] else {}).get("conditions", []),
            )
        )
    for route in store.latest_routes():
        if route.task_key == task.key:
            if route.changed_by == DriftDetected.TYPE and route.retired:
                audits = store.audits(task.key, route.retired[0]).column("stage").to_pylist().count("live")
                happened.append(_alarm(route, audits))
            happened.append(route)
    state = TaskState()
    for event in sorted(happened, key=lambda event: event.time):
        state = fold(state, event, task)
    return state


def end_of(outcome: dict[str, Any]) -> StudentTrained | TrainingFailed:
    """The event that ended a job, from its outcome file."""
    model = StudentTrained if outcome["type"] == StudentTrained.TYPE else TrainingFailed
    return model.model_validate(outcome["event"])


def _alarm(route: RouteChanged, audits: int) -> DriftDetected:
    """The alarm that took the student out, as far as its consequence tells."""
    return DriftDetected(
        id=route.cause_id or follow_id(route.id, DriftDetected.TYPE, route.task_key),
        time=route.time,
        tenant=route.tenant,
        task=route.task,
        student_id=route.retired[0],
        statistic=0.0,
        alarm_level=0.0,
        audits=audits,
        estimate=0.0,
        lower=0.0,
        upper=1.0,
        window=0,
    )


def unfinished(home: Path) -> list[tuple[str, datetime]]:
    """Ids and times of the training jobs whose end was not published, oldest first. Blocking."""
    found = []
    for path in (home / "jobs").glob("*/job.json"):
        job = read_json(path)
        if job and job.get("kind") == "training" and not (path.parent / OUTCOME_FILE).exists():
            found.append((path.parent.name, datetime.fromisoformat(job["cutoff"])))
    return sorted(found, key=lambda item: item[1])
