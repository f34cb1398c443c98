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
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from services.router.together import Together
from stillhouse.events import InferenceCompleted

KEEP_S: Final = 24 * 60 * 60  # as long as the requests' topic keeps them
ALIVE_S: Final = 3.0  # a router that was killed holds its requests for so long
LOOK_S: Final = 0.1
COMPANY_S: Final = 0.02  # an answer, which nobody waits for, is set together with what else comes in this time
HELD: Final = b"router:"  # what a mark begins with that holds no answer yet; answers are JSON

# One command for many marks: each command costs this process more than Redis. KEYS are those to take, then those to
# set; ARGV is who takes, for how long marks are kept, and the values to set. Gives what the marks to take were.
MARK: Final = """
local values = #ARGV - 2
local takes = #KEYS - values
local found = {}
for i = 1, takes do
  found[i] = redis.call('SET', KEYS[i], ARGV[1], 'EX', ARGV[2], 'NX', 'GET')
end
for i = 1, values do
  redis.call('SET', KEYS[takes + i], ARGV[2 + i], 'EX', ARGV[2])
end
return found
"""

log = structlog.get_logger()


class DoneMarks:
    """`stillhouse:done:<request id>` names the router that has the request, and then holds its answer.

    The answer is set after everything about the request is in the log. Redis away: nobody has anything, and a request
    that is read twice is answered twice, under the same ids.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._me = HELD + uuid.uuid4().hex.encode()
        self._marking = Together(self._mark)
        self._living: asyncio.Task[None] | None = None
        self._connection: AbstractConnection | None = None

    async def begin(self, request_id: str) -> InferenceCompleted | None:
        """None: it is ours to answer now. Otherwise its answer, for which this waits while another router has it."""
        key = f"stillhouse:done:{request_id}"
        try:
            while True:
                found = await self._marking.add((key, None))
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

    async def set(self, request_id: str, answer: bytes) -> None:
        """Remember an answer: the JSON of its `inference.completed`."""
        try:
            await self._marking.add((f"stillhouse:done:{request_id}", answer), within=COMPANY_S)
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
        await self._drop()
        try:
            await self._redis.delete(_alive(self._me))
        except (RedisError, OSError) as error:
            log.warning("done_marks_away", error=f"{type(error).__name__}: {error}")

    async def _mark(self, items: Sequence[tuple[str, bytes | None]]) -> Sequence[bytes | None]:
        """Each key's mark as it was, ours set where there was none; where there is a value, it is set instead."""
        takes = [key for key, value in items if value is None]
        sets = [(key, value) for key, value in items if value is not None]
        keys = [*takes, *(key for key, _ in sets)]
        arguments: list[str | bytes | int] = [self._me, KEEP_S, *(value for _, value in sets)]
        found = iter(await self._ask("EVAL", MARK, len(keys), *keys, *arguments))
        return [next(found) if value is None else None for _, value in items]

    async def _ask(self, *command: str | bytes | int) -> list[bytes | None]:
        """One command over a connection that is kept: fetching one from the pool costs twice what the command does.

        Tried again once, on a new connection, for Redis may have been restarted. Only one task asks at a time.
        """
        for last in (False, True):
            if self._connection is None:
                self._connection = await self._redis.connection_pool.get_connection()  # type: ignore[no-untyped-call]
            try:
                await self._connection.send_command(*command)
                found: list[bytes | None] = await self._connection.read_response()
                return found
            except BaseException as error:
                await self._drop()  # broken, or with an answer under way that is not the next one's
                if last or not isinstance(error, RedisError | OSError):
                    raise
        raise AssertionError("unreachable")

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
            await self._redis.connection_pool.release(connection)

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(ALIVE_S / 4)
            await self._say_alive()

    async def _say_alive(self) -> None:
        try:
            await self._redis.set(_alive(self._me), b"", px=int(1000 * ALIVE_S))
        except (RedisError, OSError) as error:
            log.warning("done_marks_away", error=f"{type(error).__name__}: {error}")


class NoMarks:
    """For a request that cannot come again, as its id was made up for it here: there is nothing to remember."""

    async def begin(self, request_id: str) -> None:
        """It is ours to answer."""

    async def set(self, request_id: str, answer: bytes) -> None:
        """Nobody will ask for it."""

    async def give_up(self, request_id: str) -> None:
        """Nobody waits for it."""


def _alive(holder: bytes) -> str:
    return f"stillhouse:{holder.decode()}"
