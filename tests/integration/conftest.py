"""Real parts on free ports."""

from __future__ import annotations

import pytest

from stillhouse.embedded.broker import EmbeddedBroker
from stillhouse.embedded.valkey import EmbeddedValkey


@pytest.fixture
async def broker(free_tcp_port, tmp_path):
    embedded = EmbeddedBroker(free_tcp_port, tmp_path / "broker.log")
    await embedded.start()
    yield embedded
    await embedded.stop()


@pytest.fixture
async def valkey(free_tcp_port_factory, tmp_path):
    embedded = EmbeddedValkey(tmp_path / "valkey", free_tcp_port_factory(), tmp_path / "valkey.log")
    await embedded.start()
    yield embedded
    await embedded.stop()
