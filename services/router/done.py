"""Which requests are being answered, and which were, with what. Marks spare second teacher calls; a lost one costs one.

A partition may move to another router while a request of it is in flight here. The new owner reads the request again,
finds that a living router has it, and waits for that one's answer instead of asking the teacher too.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.router.together import Together
from stillhouse.events import InferenceCompleted

KEEP_S: Final = 24 * 60 * 60  # as long as the requests' topic keeps them
ALIVE_S: Final = 3.0  # a router that was killed holds its requests for so long
LOOK_S: Final = 0.1
HELD: Final = b"router:"  # what a mark begins with that holds no answer yet; answers are JSON

log = structlog.get_logger()


class DoneMarks:
    """`stillhouse:done:<request id>` names the router that has the request, and then holds its answer.

    The answer is set after everything about the request is in the log. Redis away: nobody has anything, and a request
    that is read twice is answered twice, under the same ids.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._me = HELD + uuid.uuid4().hex.encode()
        self._taking = Together(self._take)
        self._setting = Together(self._set)
        self._living: asyncio.Task[None] | None = None

    async def begin(self, request_id: str) -> InferenceCompleted | None:
        """None: it is ours to answer now. Otherwise its answer, for which this waits while another router has it."""
        key = f"stillhouse:done:{request_id}"
        try:
            while True:
                found = await self._taking.add(key)
                if found is None or found == self._me:
                    return None
                if not found.startswith(HELD):
                    return InferenceCompleted.model_validate_json(found)
                if not await self._redis.exists(_alive(found)):
                    await self._redis.set(key, self._me, ex=KEEP_S)
                    return None
                await asyncio.sleep(LOOK_S)
        except (RedisError, OSError) as error:
            log.warning("done_marks_away", error=f"{type(error).__name__}: {error}")
            return None

    async def set(self, completed: InferenceCompleted) -> None:
        """Remember an answer."""
        try:
            await self._setting.add((f"stillhouse:done:{completed.request_id}", completed.model_dump_json()))
        except (RedisError, OSError) as error:
            log.warning("done_marks_away", error=f"{type(error).__name__}: {error}")

    async def give_up(self, request_id: str) -> None:
        """The request has no answer that must be kept: whoever reads it next tries anew."""
        try:
            await self._redis.delete(f"stillhouse:done:{request_id}")
        except (RedisError, OSError) as error:
            log.warning("done_marks_away", error=f"{type(error).__name__}: {error}")

    async def enter(self) -> None:
        """Say that this router is alive, from before its first `begin` until `leave`."""
        await self._say_alive()
        self._living = asyncio.create_task(self._live())

    async def leave(self) -> None:
        """Whatever is still held is anybody's."""
        if self._living is not None:
            self._living.cancel()
            await asyncio.gather(self._living, return_exceptions=True)
        try:
            await self._redis.delete(_alive(self._me))
        except (RedisError, OSError) as error:
            log.warning("done_marks_away", error=f"{type(error).__name__}: {error}")

    async def _take(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Each key's mark as it is; ours is set where there is none (None then)."""
        pipeline = self._redis.pipeline(transaction=False)
        for key in keys:
            pipeline.set(key, self._me, ex=KEEP_S, nx=True, get=True)
        found: list[bytes | None] = await pipeline.execute()
        return found

    async def _set(self, answers: Sequence[tuple[str, str]]) -> Sequence[object]:
        pipeline = self._redis.pipeline(transaction=False)
        for key, answer in answers:
            pipeline.set(key, answer, ex=KEEP_S)
        said: list[object] = await pipeline.execute()
        return said

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(ALIVE_S / 4)
            await self._say_alive()

    async def _say_alive(self) -> None:
        try:
            await self._redis.set(_alive(self._me), b"", px=int(1000 * ALIVE_S))
        except (RedisError, OSError) as error:
            log.warning("done_marks_away", error=f"{type(error).__name__}: {error}")


def _alive(holder: bytes) -> str:
    return f"stillhouse:{holder.decode()}"
