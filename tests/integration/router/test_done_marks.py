"""Done-marks in a real Valkey: many at once, callers that give up, and a server that is away."""

from __future__ import annotations

import asyncio

import pytest

from services.router.done import DoneMarks
from stillhouse.bus.redis import connect_redis
from stillhouse.events import InferenceCompleted
from stillhouse.settings import Redis


@pytest.fixture
async def redis(valkey):
    client = connect_redis(Redis(url=valkey.url))
    yield client
    await client.aclose()


def completed(n: int) -> InferenceCompleted:
    return InferenceCompleted(task="t", request_id=f"r-{n}", output=f"answer {n}")


async def test_each_of_many_at_once_finds_its_own_answer(redis) -> None:
    marks = DoneMarks(redis)
    await asyncio.gather(*(marks.set(completed(n)) for n in range(300)))
    found = await asyncio.gather(*(marks.find(f"r-{n}") for n in range(310)))
    assert [answer and answer.output for answer in found] == [f"answer {n}" for n in range(300)] + [None] * 10
    assert await redis.ttl("stillhouse:done:r-7") > 0


async def test_a_caller_that_gives_up_takes_nobody_along(redis) -> None:
    marks = DoneMarks(redis)
    await marks.set(completed(1))
    given_up, waiting = asyncio.create_task(marks.find("r-0")), asyncio.create_task(marks.find("r-1"))
    await asyncio.sleep(0)
    given_up.cancel()
    found = await waiting
    assert found is not None
    assert found.output == "answer 1"
    assert given_up.cancelled()


async def test_a_server_that_is_away_costs_an_answer_and_nothing_more(free_tcp_port) -> None:
    client = connect_redis(Redis(url=f"redis://127.0.0.1:{free_tcp_port}/0"))
    marks = DoneMarks(client)
    assert await asyncio.gather(*(marks.find(f"r-{n}") for n in range(3))) == [None] * 3
    await marks.set(completed(1))
    await client.aclose()
