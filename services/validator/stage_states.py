"""Where stage tests are kept: Redis, the state and the audits it has seen written in one MULTI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel
from redis.asyncio import Redis
from redis.exceptions import WatchError

from stillhouse.events import InferenceAudited

State = TypeVar("State", bound=BaseModel)
Rebuilt = tuple[State, Sequence[str]]  # a state, and the ids of the audits in it


class StageStates:
    """Sequential tests by task, student and stage. No audit is counted twice, whatever is delivered again."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def add(
        self,
        kind: type[State],
        name: tuple[str, str, str],
        audits: Sequence[InferenceAudited],
        step: Callable[[State, InferenceAudited], State],
        rebuild: Callable[[], Awaitable[Rebuilt[State]]],
    ) -> State:
        """Fold the audits that were not seen into the state `name` = (task key, student id, stage), and keep it.

        `rebuild` gives the state where none is kept: a new test, or one that Redis lost. Raises `redis.RedisError`.
        """
        key, seen = self._keys(*name)
        while True:
            async with self._redis.pipeline(transaction=True) as pipe:
                try:
                    await pipe.watch(key, seen)
                    raw: Any = await pipe.get(key)
                    known: set[str] = set()
                    marks: list[str] = []
                    if raw is not None:
                        state = kind.model_validate_json(raw)
                        flags: Any = await pipe.smismember(seen, [audit.id for audit in audits]) if audits else []
                        known = {audit.id for audit, flag in zip(audits, flags, strict=True) if flag}
                    else:
                        state, counted = await rebuild()
                        known, marks = set(counted), list(counted)
                    for audit in audits:
                        if audit.id not in known:
                            known.add(audit.id)
                            marks.append(audit.id)
                            state = step(state, audit)
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.set(key, state.model_dump_json())
                    if marks:
                        pipe.sadd(seen, *marks)
                    await pipe.execute()
                    return state
                except WatchError:
                    continue

    async def announced(self, kind: type[State], name: tuple[str, str, str]) -> None:
        """The verdict is out: mark the state's `announced`, if the state is still there."""
        key, _ = self._keys(*name)
        while True:
            async with self._redis.pipeline(transaction=True) as pipe:
                try:
                    await pipe.watch(key)
                    raw: Any = await pipe.get(key)
                    if raw is None:
                        return
                    state = kind.model_validate_json(raw).model_copy(update={"announced": True})
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.set(key, state.model_dump_json())
                    await pipe.execute()
                    return
                except WatchError:
                    continue

    async def retire(self, task_key: str, student_id: str) -> None:
        """Forget a student's tests."""
        keys = [key for stage in ("shadow", "canary") for key in self._keys(task_key, student_id, stage)]
        await self._redis.delete(*keys)

    @staticmethod
    def _keys(task_key: str, student_id: str, stage: str) -> tuple[str, str]:
        key = f"stillhouse:stage:{{{task_key}:{student_id}}}:{stage}"
        return key, f"{key}:seen"
