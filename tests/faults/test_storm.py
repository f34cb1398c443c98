"""A short storm in every run; `make storm MINUTES=10 SEED=7` plays them as long as wanted."""

from __future__ import annotations

import logging

import pytest

from tests.faults.storm import storm


@pytest.mark.slow
async def test_a_storm_breaks_nothing(fitted, tmp_path, capsys, caplog) -> None:
    # It says many times that the broker is away, and would hide what was broken.
    caplog.set_level(logging.CRITICAL, "aiokafka")
    with capsys.disabled():
        assert await storm(tmp_path, fitted, 150.0, 3, lambda line: print(line, flush=True)) == []
