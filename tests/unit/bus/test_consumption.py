"""When reading stops, and when it goes on."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from stillhouse.bus.consumption import FEWEST, Consumption, Stopping

TOPIC = "training.requested"


def consuming(service: str) -> float | None:
    return REGISTRY.get_sample_value("stillhouse_consuming", {"service": service, "topic": TOPIC})


async def test_single_bad_records_stop_nothing() -> None:
    consumption = Consumption("a", pause_s=1000)
    await consumption.allowed(TOPIC)
    for _ in range(200):
        consumption.count(TOPIC, 2, 1)
    for _ in range(FEWEST - 1):
        consumption.count("another", 0, 1)
    assert consumption.going
    assert consuming("a") == 1


async def test_reading_stops_where_most_records_fail_and_only_there() -> None:
    consumption = Consumption("b", pause_s=1000)
    await consumption.allowed(TOPIC)
    consumption.count(TOPIC, 0, FEWEST)
    assert not consumption.going
    assert consuming("b") == 0
    await consumption.allowed("another")
    waiting = asyncio.ensure_future(consumption.allowed(TOPIC))
    assert not (await asyncio.wait([waiting], timeout=0.05))[0]
    consumption.close()
    with pytest.raises(Stopping):
        await waiting


async def test_after_the_pause_a_good_record_resumes_and_bad_ones_stop_it_again() -> None:
    consumption = Consumption("c", pause_s=0.05)
    for _ in range(2):
        consumption.count(TOPIC, 0, FEWEST)
        await asyncio.wait_for(consumption.allowed(TOPIC), 10)
    assert not consumption.going  # tried, and not yet found to be good
    consumption.count(TOPIC, 1, 0)
    assert consumption.going
    assert consuming("c") == 1


async def test_where_nothing_comes_any_more_it_does_not_stay_stopped() -> None:
    consumption = Consumption("d", pause_s=0.01)
    consumption.count(TOPIC, 0, FEWEST)
    async with asyncio.timeout(10):
        while not consumption.going:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert consuming("d") == 1


async def test_many_good_records_do_not_hide_a_change_for_long() -> None:
    consumption = Consumption("e", pause_s=1000)
    consumption.count(TOPIC, 10_000, 0)
    failed = 0
    while consumption.going:
        consumption.count(TOPIC, 0, 1)
        failed += 1
    assert failed == 26
