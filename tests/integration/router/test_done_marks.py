"""Done-marks in a real Valkey: many at once, callers that give up, and a server that is away."""

from __future__ import annotations

import asyncio

import pytest

from services.router.done import HELD, KEEP_S, DoneMarks
from stillhouse.bus.redis import connect_redis
from stillhouse.events import InferenceCompleted
from stillhouse.settings import Redis


@pytest.fixture
async def redis(valkey):
    client = connect_redis(Redis(url=valkey.url))
    yield client
    await client.aclose()


def answer(n: int) -> bytes:
    return InferenceCompleted(task="t", request_id=f"r-{n}", output=f"answer {n}").model_dump_json().encode()


async def test_each_of_many_at_once_finds_its_own_answer(redis) -> None:
    marks = DoneMarks(redis)
    await asyncio.gather(*(marks.set(f"r-{n}", answer(n)) for n in range(300)))
    found = await asyncio.gather(*(marks.begin(f"r-{n}") for n in range(310)))
    assert [answer and answer.output for answer in found] == [f"answer {n}" for n in range(300)] + [None] * 10
    assert 0 < await redis.ttl("stillhouse:done:r-7") <= KEEP_S
    assert 0 < await redis.ttl("stillhouse:done:r-305") <= KEEP_S


async def test_answers_are_set_and_requests_taken_in_one_go(redis) -> None:
    marks = DoneMarks(redis)
    taking = (marks.begin(f"r-{n}") for n in range(40))
    setting = (marks.set(f"r-{n}", answer(n)) for n in range(20, 60))
    found, _ = await asyncio.gather(asyncio.gather(*taking), asyncio.gather(*setting))
    assert found == [None] * 40  # they were taken before they were set
    other = DoneMarks(redis)
    found = await asyncio.gather(*(other.begin(f"r-{n}") for n in range(20, 60)))
    assert [answer and answer.output for answer in found] == [f"answer {n}" for n in range(20, 60)]


async def test_what_a_living_router_has_is_waited_for_and_what_a_dead_one_had_is_taken(redis) -> None:
    first, second = DoneMarks(redis), DoneMarks(redis)
    await first.enter()
    assert await first.begin("r-1") is None
    assert await first.begin("r-1") is None  # read again by the same router
    waiting = asyncio.create_task(second.begin("r-1"))
    await first.set("r-1", answer(1))
    found = await waiting
    assert found is not None
    assert found.output == "answer 1"
    assert await first.begin("r-2") is None
    await first.leave()
    assert await second.begin("r-2") is None
    assert (await redis.get("stillhouse:done:r-2")).startswith(HELD)


async def test_a_caller_that_gives_up_takes_nobody_along(redis) -> None:
    marks = DoneMarks(redis)
    await marks.set("r-1", answer(1))
    given_up, waiting = asyncio.create_task(marks.begin("r-0")), asyncio.create_task(marks.begin("r-1"))
    await asyncio.sleep(0)
    given_up.cancel()
    found = await waiting
    assert found is not None
    assert found.output == "answer 1"
    assert given_up.cancelled()


async def test_a_server_that_is_away_costs_an_answer_and_nothing_more(free_tcp_port) -> None:
    client = connect_redis(Redis(url=f"redis://127.0.0.1:{free_tcp_port}/0"))
    marks = DoneMarks(client)
    assert await asyncio.gather(*(marks.begin(f"r-{n}") for n in range(3))) == [None] * 3
    await marks.set("r-1", answer(1))
    await client.aclose()


async def test_a_server_that_was_restarted_is_asked_again(valkey, redis) -> None:
    marks = DoneMarks(redis)
    assert await marks.begin("r-1") is None
    await redis.client_kill_filter(_type="normal", skipme=True)  # what a restart does to connections
    await marks.set("r-1", answer(1))
    found = await DoneMarks(redis).begin("r-1")
    assert found is not None
    assert found.output == "answer 1"
    await marks.leave()
