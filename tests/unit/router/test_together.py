"""Calls gathered while one is under way."""

from __future__ import annotations

import asyncio

import pytest

from services.router.together import MOST, Together


async def test_what_comes_meanwhile_goes_out_together_and_each_gets_its_own() -> None:
    batches: list[list[int]] = []
    begun, first_may_end = asyncio.Event(), asyncio.Event()

    async def work(items):
        batches.append(list(items))
        begun.set()
        if len(batches) == 1:
            await first_may_end.wait()
        return [10 * item for item in items]

    together = Together(work)
    calls = [asyncio.create_task(together.add(n)) for n in range(3 + MOST)]
    await begun.wait()
    late = asyncio.create_task(together.add(1000))
    await asyncio.sleep(0)
    first_may_end.set()
    assert await asyncio.gather(*calls) == [10 * n for n in range(3 + MOST)]
    assert await late == 10_000
    assert [len(batch) for batch in batches] in ([MOST, 4], [1, MOST, 3])


async def test_an_error_reaches_those_of_its_batch_and_the_next_is_tried() -> None:
    broken = True

    async def work(items):
        if broken:
            raise ConnectionError("away")
        return items

    together = Together(work)
    with pytest.raises(ConnectionError, match="away"):
        await together.add(1)
    broken = False
    assert await together.add(2) == 2


async def test_what_may_wait_goes_with_the_next_that_does_not() -> None:
    batches: list[list[int]] = []

    async def work(items):
        batches.append(list(items))
        return items

    together = Together(work)
    patient = [asyncio.create_task(together.add(n, within=3600.0)) for n in (1, 2)]
    await asyncio.sleep(0)
    assert batches == []
    assert await together.add(3) == 3
    assert await asyncio.gather(*patient) == [1, 2]
    assert batches == [[1, 2, 3]]


async def test_what_may_wait_goes_alone_when_nobody_comes() -> None:
    async def work(items):
        return items

    together = Together(work)
    assert await together.add(1, within=0.001) == 1
    assert await together.add(2, within=0.001) == 2
