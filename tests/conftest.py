"""Fixtures for every kind of test."""

from __future__ import annotations

import socket

import pytest
from hypothesis import settings

# A busy machine is no finding: what takes too long shows in the time of the whole run.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture
def free_tcp_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
