"""Settings of a real broker whose topics are declared."""

from __future__ import annotations

import pytest

from stillhouse.settings import Settings


@pytest.fixture
def settings(broker):
    return Settings(kafka=broker.settings)
