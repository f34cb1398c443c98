"""Real parts on free ports."""

from __future__ import annotations

import socket

import pytest

from stillhouse.embedded.broker import EmbeddedBroker


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def broker(free_port, tmp_path):
    embedded = EmbeddedBroker(free_port, tmp_path / "broker.log")
    await embedded.start()
    yield embedded
    await embedded.stop()
