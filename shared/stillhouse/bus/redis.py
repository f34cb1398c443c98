"""Connecting to Redis, and noticing that it was emptied."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as Connection
from redis.exceptions import RedisError

from stillhouse.settings import Redis

LOOK_S: Final = 2.0

log = structlog.get_logger()


def connect_redis(settings: Redis) -> Connection:
    """A client of at most 16 connections; more callers than that wait for one (5 s at most) instead of failing."""
    pool = BlockingConnectionPool.from_url(settings.url.get_secret_value(), max_connections=16, timeout=5)
    return Connection.from_pool(pool)


async def restore_regularly(
    redis: Connection, service: str, restore: Callable[[], Awaitable[None]], *, look_s: float = LOOK_S
) -> None:
    """Call `restore` (safe to repeat) whenever Redis was emptied under a running service, until cancelled.

    `stillhouse:kept:<service>` is there for as long as Redis has kept what this service put into it. An append-only
    file that lost its last second loses no key of ours for good: what it held is read or claimed again.
    """
    key = f"stillhouse:kept:{service}"
    while True:
        try:
            if not await redis.exists(key):
                log.warning("redis_was_empty", service=service)
                await restore()
                await redis.set(key, b"")
        except (RedisError, OSError) as error:
            log.warning("redis_away", error=f"{type(error).__name__}: {error}")
        await asyncio.sleep(look_s)
