"""A store in a folder of its own."""

from __future__ import annotations

import pytest

from stillhouse.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")
