"""A real Valkey, on a loop of its own, so that property tests can use it in ordinary functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from stillhouse.bus.redis import connect_redis
from stillhouse.embedded.ports import free_port
from stillhouse.embedded.valkey import EmbeddedValkey
from stillhouse.settings import Redis as Settings

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Clock:
    """Stands where it is put."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


async def nothing_to_wait_for() -> None:
    """The ledger misses nothing."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(url, run): a Valkey, and what runs a coroutine on its loop."""
    folder = tmp_path_factory.mktemp("valkey")
    with asyncio.Runner() as runner:
        valkey = EmbeddedValkey(folder, free_port(), folder / "valkey.log")
        runner.run(valkey.start())
        yield valkey.url, runner.run
        runner.run(valkey.stop())


@pytest.fixture
def run(server) -> Callable[[Callable[[Redis], Coroutine[Any, Any, Any]]], Any]:
    """Runs `work(redis)` against an empty Valkey."""
    url, on_loop = server

    def ran(work):
        async def connected():
            redis = connect_redis(Settings(url=url))
            try:
                await redis.flushall()
                return await work(redis)
            finally:
                await redis.aclose()

        return on_loop(connected())

    return ran
