"""A process's own CPU time: all of it, once, shared out by what was done."""

from __future__ import annotations

import asyncio

import pytest

from stillhouse.bus.metering import Meter
from tests.unit.trainer.tasks import make_task

TASKS = {task.key: task for task in (make_task(name=name) for name in ("a", "b"))}


def burn() -> None:
    sum(n * n for n in range(300_000))


def test_time_is_shared_by_counts_and_reported_once() -> None:
    meter = Meter("capture", TASKS)
    burn()
    meter.count("default/a", 3)
    meter.count("default/b")
    meter.count("default/unknown", 100)
    a, b = meter.report()
    assert a.cpu_seconds == pytest.approx(3 * b.cpu_seconds)
    assert a.cpu_seconds > 0.001
    assert a.usd == pytest.approx(a.cpu_seconds / 3600 * 0.05)
    idle = meter.report()
    assert len(idle) == 2
    assert idle[0].cpu_seconds == idle[1].cpu_seconds < b.cpu_seconds
    assert len({event.id for event in (a, b, *idle)}) == 4


async def test_what_could_not_be_said_is_said_later_under_the_same_id() -> None:
    said, tries, done = [], [], asyncio.Event()

    async def publish(event) -> None:
        tries.append(event.id)
        if len(tries) == 1:
            raise OSError("away")
        said.append(event)
        if len(said) >= 3:
            done.set()

    reporting = asyncio.create_task(Meter("routing", TASKS).report_regularly(publish, every_s=0.001))
    async with asyncio.timeout(10):
        await done.wait()
    reporting.cancel()
    assert said[0].id == tries[0] == tries[1]
    assert len({event.id for event in said}) == len(said)
