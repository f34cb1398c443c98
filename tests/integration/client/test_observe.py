"""An application's own teacher calls, recorded through a real broker; the application notices nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal

import pytest
from aiokafka import AIOKafkaConsumer

from stillhouse import observing
from stillhouse.bus import consumer_options
from stillhouse.client import Client
from stillhouse.events import MAX_RECORD_BYTES, InferenceCompleted


async def recorded(settings, count: int) -> list[InferenceCompleted]:
    """The first `count` observed calls in the log."""
    async with (
        AIOKafkaConsumer(InferenceCompleted.TYPE, **consumer_options(settings.kafka)) as consumer,
        asyncio.timeout(30),
    ):
        return [InferenceCompleted.model_validate_json((await consumer.getone()).value) for _ in range(count)]


async def test_calls_are_in_the_log_when_the_client_is_closed(settings) -> None:
    async with Client(settings) as client:

        @client.observe(task="intents", model="my-llm")
        async def ask(system: object, text: str) -> str:
            """Ask my own teacher."""
            return "greeting"

        @client.observe(task="intents", tenant="acme", input=lambda call: call["q"], output=json.dumps)
        def ask_too(call: dict[str, str]) -> dict[str, str]:
            return {"label": call["q"]}

        assert ask.__doc__ == "Ask my own teacher."
        assert await ask(None, "hello") == "greeting"
        assert ask_too({"q": "bye"}) == {"label": "bye"}
        assert await asyncio.to_thread(ask_too, {"q": "from a thread"}) == {"label": "from a thread"}
    by_input = {event.input: event for event in await recorded(settings, 3)}
    assert by_input.keys() == {"hello", "bye", "from a thread"}
    event = by_input["hello"]
    assert event.teacher is not None
    assert (event.output, event.teacher.model, event.teacher.distribution) == ("greeting", "my-llm", {"greeting": 1.0})
    assert (event.purpose, event.served_by, event.reason, event.status) == ("observe", "teacher", "no_student", "ok")
    assert (by_input["bye"].tenant, by_input["bye"].output) == ("acme", '{"label": "bye"}')
    assert len({event.request_id for event in by_input.values()}) == 3


async def test_a_thousand_calls_from_threads_are_all_recorded(settings) -> None:
    async with Client(settings) as client:

        @client.observe(task="intents")
        def ask(text: str) -> str:
            return text

        def many(thread: int) -> None:
            for number in range(100):
                ask(f"{thread} {number}")

        await asyncio.gather(*(asyncio.to_thread(many, thread) for thread in range(10)))
    assert len({event.input for event in await recorded(settings, 1000)}) == 1000


async def test_what_cannot_be_published_is_logged_once_and_changes_nothing(settings, caplog) -> None:
    with caplog.at_level(logging.WARNING, "stillhouse.client"):
        async with Client(settings) as client:

            @client.observe(task="intents")
            async def ask(text: str) -> str:
                return "a"

            huge = "private " * (MAX_RECORD_BYTES // 8 + 1)
            for _ in range(3):
                assert await ask(huge) == "a"
            await ask("small")
    assert [event.input for event in await recorded(settings, 1)] == ["small"]
    first, last = [record.getMessage() for record in caplog.records]
    assert "1,000,000 are allowed" in first
    assert last == "In all, 3 observed calls were not recorded."
    assert "private" not in first


async def test_a_broker_that_went_away_is_no_concern_of_the_application(settings, broker, caplog, monkeypatch) -> None:
    if not hasattr(broker, "pid"):
        pytest.skip("it kills the broker, and the Kafka that is named is not ours to kill")
    monkeypatch.setattr(observing, "DRAIN_S", 0.5)
    monkeypatch.setattr("stillhouse.client.STOP_S", 0.5)
    with caplog.at_level(logging.WARNING, "stillhouse.client"):
        async with Client(settings) as client:

            @client.observe(task="intents")
            async def ask(text: str) -> str:
                return "a"

            assert await ask("before") == "a"
            await recorded(settings, 1)
            os.kill(broker.pid, signal.SIGKILL)
            await broker.ended()
            assert await ask("after") == "a"
    assert client.observations_lost == 1
    assert [record.getMessage() for record in caplog.records if record.name == "stillhouse.client"] == [
        "An observed call was not recorded: the log did not take it within 0.5 s. Later ones are only counted."
    ]
