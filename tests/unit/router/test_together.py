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
