"""A real Valkey on a free port."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from stillhouse.embedded.valkey import EmbeddedValkey


@pytest.fixture
async def redis(free_tcp_port, tmp_path):
    valkey = EmbeddedValkey(tmp_path / "valkey", free_tcp_port, tmp_path / "valkey.log")
    await valkey.start()
    client = Redis.from_url(valkey.url)
    yield client
    await client.aclose()
    await valkey.stop()
