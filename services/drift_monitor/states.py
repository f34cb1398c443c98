"""Where tests and standings are kept: Redis, a test and the audits it has seen written in one MULTI.

All of it is rebuilt from the store when Redis comes up empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import WatchError

from services.drift_monitor.standing import Standing, rebuild
from services.drift_monitor.watch import Watch, count
from stillhouse.events import InferenceAudited, RouteChanged
from stillhouse.store import Store
from stillhouse.tasks import Task

# Audit ids kept for each student, about 100 bytes each. An audit older than all of them was counted long ago.
REMEMBERED: Final = 50_000


class States:
    """Tests by task and student, standings by task. No audit is counted twice, whatever is delivered again."""

    def __init__(self, redis: Redis, store: Store, window: int, *, remembered: int = REMEMBERED) -> None:
        self._redis = redis
        self._store = store
        self._window = window
        self._remembered = remembered

    async def add(self, task: Task, student_id: str, audits: Sequence[InferenceAudited]) -> Watch:
        """Count those of the student's live audits that were not seen, and keep the outcome. `redis.RedisError`."""
        key, seen = self._keys(task.key, student_id)
        while True:
            async with self._redis.pipeline(transaction=True) as pipe:
                try:
                    await pipe.watch(key, seen)
                    raw: Any = await pipe.get(key)
                    if raw is not None:
                        state, marks = Watch.model_validate_json(raw), dict[str, float]()
                        known = await self._known(pipe, seen, audits)
                    else:
                        state, marks = await asyncio.to_thread(self._rebuild, task, student_id)
                        known = set(marks)
                    new = {audit.id: audit for audit in audits if audit.id not in known}.values()
                    counted = (audit for audit in new if task.cascade.counts(audit.would_serve))
                    state = count(state, ((audit.request_id, audit.loss) for audit in counted), self._window)
                    marks |= {audit.id: audit.time.timestamp() for audit in new}
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.set(key, state.model_dump_json())
                    if marks:
                        pipe.zadd(seen, dict(marks))
                        pipe.zremrangebyrank(seen, 0, -self._remembered - 1)
                    await pipe.execute()
                    return state
                except WatchError:
                    continue

    async def announced(self, task_key: str, student_id: str) -> None:
        """The alarm is out: mark it, if the test is still there."""
        key, _ = self._keys(task_key, student_id)
        while True:
            async with self._redis.pipeline(transaction=True) as pipe:
                try:
                    await pipe.watch(key)
                    raw: Any = await pipe.get(key)
                    if raw is None:
                        return
                    state = Watch.model_validate_json(raw).model_copy(update={"announced": True})
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.set(key, state.model_dump_json())
                    await pipe.execute()
                    return
                except WatchError:
                    continue

    async def retire(self, task_key: str, student_id: str) -> None:
        """Forget a student's test."""
        await self._redis.delete(*self._keys(task_key, student_id))

    async def standing(self, task_key: str) -> Standing:
        """Who is live on a task, and whether an alarm is open."""
        return await self.change(task_key, lambda standing: standing)

    async def change(self, task_key: str, step: Callable[[Standing], Standing]) -> Standing:
        """Apply `step` to the newest standing and keep the outcome; `step` may run more than once."""
        key = f"stillhouse:drift:{{{task_key}}}"
        while True:
            async with self._redis.pipeline(transaction=True) as pipe:
                try:
                    await pipe.watch(key)
                    raw: Any = await pipe.get(key)
                    if raw is not None:
                        before = Standing.model_validate_json(raw)
                    else:
                        before = await asyncio.to_thread(self._history, task_key)
                    after = step(before)
                    if raw is not None and after == before:
                        return after
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.set(key, after.model_dump_json())
                    await pipe.execute()
                    return after
                except WatchError:
                    continue

    async def _known(self, pipe: Any, seen: str, audits: Sequence[InferenceAudited]) -> set[str]:
        if not audits:
            return set()
        scores = await pipe.zmscore(seen, [audit.id for audit in audits])
        known = {audit.id for audit, score in zip(audits, scores, strict=True) if score is not None}
        if await pipe.zcard(seen) >= self._remembered:
            [(_, oldest)] = await pipe.zrange(seen, 0, 0, withscores=True)
            known |= {audit.id for audit in audits if audit.time.timestamp() < oldest}
        return known

    def _rebuild(self, task: Task, student_id: str) -> tuple[Watch, dict[str, float]]:
        rows = [row for row in self._store.audits(task.key, student_id).to_pylist() if row["stage"] == "live"]
        counted = [row for row in rows if task.cascade.counts(row["would_serve"])]
        losses = ((row["request_id"], row["would_serve"] and not row["agrees"]) for row in counted)
        return count(Watch.start(task), losses, self._window), {
            row["audit_id"]: row["time"].timestamp() for row in rows
        }

    def _history(self, task_key: str) -> Standing:
        events = self._store.routes(task_key).column("event").to_pylist()
        return rebuild(RouteChanged.model_validate_json(event) for event in events)

    @staticmethod
    def _keys(task_key: str, student_id: str) -> tuple[str, str]:
        key = f"stillhouse:drift:{{{task_key}}}:{student_id}"
        return key, f"{key}:seen"
