"""Real parts on free ports."""

from __future__ import annotations

import pytest

from stillhouse.embedded.broker import EmbeddedBroker


@pytest.fixture
async def broker(free_tcp_port, tmp_path):
    embedded = EmbeddedBroker(free_tcp_port, tmp_path / "broker.log")
    await embedded.start()
    yield embedded
    await embedded.stop()
