"""Connecting to Redis."""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as Connection

from stillhouse.settings import Redis


def connect_redis(settings: Redis) -> Connection:
    """A client of at most 16 connections; more callers than that wait for one (5 s at most) instead of failing."""
    pool = BlockingConnectionPool.from_url(settings.url.get_secret_value(), max_connections=16, timeout=5)
    return Connection.from_pool(pool)
