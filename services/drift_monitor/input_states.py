"""Where the label-free tests are kept: Redis, every step written together with the ids of the requests it counted.

What is lost with Redis begins anew: references are collected again, which costs time to notice, and no promise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import WatchError

from services.drift_monitor.inputs import Buffers, InputWatch, Observation, compared, counted, row_bytes, suspect
from services.drift_monitor.novelty import Known
from services.drift_monitor.standing import Standing
from stillhouse.events import InferenceCompleted
from stillhouse.tasks import Task

# Ids kept for each student. A request older than all of them was counted long ago.
REMEMBERED: Final = 20_000


class InputStates:
    """Label-free tests by task and student. No request is counted twice, whatever is delivered again."""

    def __init__(self, redis: Redis, *, remembered: int = REMEMBERED) -> None:
        self._redis = redis
        self._remembered = remembered

    async def unseen(
        self, task_key: str, student_id: str, events: Sequence[InferenceCompleted]
    ) -> list[InferenceCompleted]:
        """Those that were not counted yet: what is known already need not be looked at. `redis.RedisError`."""
        known = await self._known(self._redis, task_key, student_id, [(e.id, e.time.timestamp()) for e in events])
        return [event for event in events if event.id not in known]

    async def add(
        self, task: Task, standing: Standing, observations: Sequence[Observation], known: Known | None
    ) -> InputWatch:
        """Count those observations of the live student that were not seen, and keep the outcome. `redis.RedisError`."""
        student_id = standing.live or ""
        key = _key(task.key, student_id)
        while True:
            async with self._redis.pipeline(transaction=True) as pipe:
                try:
                    await pipe.watch(key, f"{key}:seen")
                    before = await self._load(pipe, task, standing)
                    times = [(item.event_id, item.time.timestamp()) for item in observations]
                    seen = await self._known(pipe, task.key, student_id, times)
                    new = list({item.event_id: item for item in observations if item.event_id not in seen}.values())
                    full = before.rows + len(new) >= task.drift.window
                    # Rows are only added to, and read when they are compared.
                    kept: Any = await pipe.mget(f"{key}:reference", f"{key}:window") if full else (b"", b"")
                    buffers = Buffers(kept[0] or b"", kept[1] or b"")
                    state = counted(task, before, new, known)
                    state, buffers = await asyncio.to_thread(compared, task, state, buffers, new, student_id)
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.set(key, state.model_dump_json())
                    if full:
                        pipe.mset({f"{key}:reference": buffers.reference, f"{key}:window": buffers.window})
                    elif buffers.window:
                        pipe.append(f"{key}:window", buffers.window)
                    if new:
                        pipe.zadd(f"{key}:seen", {item.event_id: item.time.timestamp() for item in new})
                        pipe.zremrangebyrank(f"{key}:seen", 0, -self._remembered - 1)
                    await pipe.execute()
                    return state
                except WatchError:
                    continue

    async def change(self, task: Task, standing: Standing, step: Callable[[InputWatch], InputWatch]) -> InputWatch:
        """Apply `step` to the live student's newest state and keep the outcome; `step` may run more than once."""
        key = _key(task.key, standing.live or "")
        while True:
            async with self._redis.pipeline(transaction=True) as pipe:
                try:
                    await pipe.watch(key)
                    before = await self._load(pipe, task, standing)
                    after = step(before)
                    if after == before:
                        return after
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.set(key, after.model_dump_json())
                    if after.rows == 0 and before.rows:  # what was collected is not compared any more
                        pipe.delete(f"{key}:window")
                    await pipe.execute()
                    return after
                except WatchError:
                    continue

    async def retire(self, task_key: str, student_id: str) -> None:
        """Forget a student's tests."""
        key = _key(task_key, student_id)
        await self._redis.delete(key, *(f"{key}:{part}" for part in ("seen", "reference", "window")))

    async def _load(self, pipe: Any, task: Task, standing: Standing) -> InputWatch:
        shape = (task.drift.window, row_bytes(task))
        raw = await pipe.get(_key(task.key, standing.live or ""))
        state = InputWatch.model_validate_json(raw) if raw is not None else _anew(standing)
        if state.shape != shape:  # another window or other labels: rows of the two do not compare
            state = state.model_copy(update={"shape": shape, "rows": 0, "referred": False})
            pipe_key = _key(task.key, standing.live or "")
            await self._redis.delete(f"{pipe_key}:window", f"{pipe_key}:reference")
        return state

    async def _known(self, redis: Any, task_key: str, student_id: str, times: Sequence[tuple[str, float]]) -> set[str]:
        if not times:
            return set()
        seen = f"{_key(task_key, student_id)}:seen"
        scores = await redis.zmscore(seen, [event_id for event_id, _ in times])
        known = {event_id for (event_id, _), score in zip(times, scores, strict=True) if score is not None}
        if await redis.zcard(seen) >= self._remembered:
            [(_, oldest)] = await redis.zrange(seen, 0, 0, withscores=True)
            known |= {event_id for event_id, time in times if time < oldest}
        return known


def _anew(standing: Standing) -> InputWatch:
    """A student that nothing is known of, perhaps because Redis was lost: then the route tells what was suspected."""
    state = InputWatch(asked_pi=standing.audit_pi)
    if standing.audit_pi is None:
        return state
    return suspect(state, "inputs", 0.0, 0.0, 0, "suspected before what was known of it was lost")


def _key(task_key: str, student_id: str) -> str:
    return f"stillhouse:drift:{{{task_key}}}:{student_id}:inputs"
