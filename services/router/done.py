"""Done-marks: which requests were answered, and with what. They spare a second teacher call; losing them costs one."""

from __future__ import annotations

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from stillhouse.events import InferenceCompleted

KEEP_S = 24 * 60 * 60  # as long as the requests' topic keeps them

log = structlog.get_logger()


class DoneMarks:
    """`stillhouse:done:<request id>` holds the answer, set after everything about the request is in the log."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def find(self, request_id: str) -> InferenceCompleted | None:
        """The answer that was given before; None where there is none, or Redis cannot say."""
        try:
            raw = await self._redis.get(f"stillhouse:done:{request_id}")
        except (RedisError, OSError) as error:
            log.warning("done_marks_away", error=f"{type(error).__name__}: {error}")
            return None
        return InferenceCompleted.model_validate_json(raw) if raw else None

    async def set(self, completed: InferenceCompleted) -> None:
        """Remember an answer."""
        try:
            await self._redis.set(f"stillhouse:done:{completed.request_id}", completed.model_dump_json(), ex=KEEP_S)
        except (RedisError, OSError) as error:
            log.warning("done_marks_away", error=f"{type(error).__name__}: {error}")
