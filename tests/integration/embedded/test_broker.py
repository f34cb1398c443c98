"""The embedded broker's new log: its topics are what the catalogue says, and what was said to the old one is in it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from stillhouse.bus import client_options, encode, producer_options
from stillhouse.bus.connection import declare_anew, undeclared
from stillhouse.bus.incarnation import Incarnation, keys_of
from stillhouse.bus.said import Said
from stillhouse.embedded.broker import EmbeddedBroker
from stillhouse.events import CATALOGUE, Event, InferenceRequested
from tests.unit.trainer.tasks import gate_failed, trained

TOPIC = InferenceRequested.TYPE


@pytest.fixture
async def broker(free_tcp_port, tmp_path):
    started = EmbeddedBroker(free_tcp_port, tmp_path / "broker.log")
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
async def admin(broker):
    client = AIOKafkaAdminClient(**client_options(broker.settings))
    await client.start()
    yield client
    await client.close()


@pytest.fixture
async def producer(broker):
    async with AIOKafkaProducer(**producer_options(broker.settings)) as started:
        yield started


async def test_what_faster_clients_did_to_a_new_log_is_cleared_away(broker, admin, producer) -> None:
    assert await undeclared(admin) == []
    # As in a log that is new: they write to a topic that is not there, and ask for one, which makes it.
    await producer.send_and_wait(TOPIC, b"x", key=b"before", partition=3)
    await admin.delete_topics([topic.name for topic in CATALOGUE])
    for number in range(3):
        await producer.send_and_wait(TOPIC, b"x", key=f"early-{number}".encode(), partition=3)
    await admin.describe_topics([TOPIC])
    assert len(await undeclared(admin)) == len(CATALOGUE)

    await declare_anew(broker.settings)
    assert await undeclared(admin) == []
    offsets = [
        (await producer.send_and_wait(TOPIC, b"x", key=f"late-{number}".encode(), partition=3)).offset
        for number in range(5)
    ]
    assert offsets == [*range(5)]
    assert await keys_of(broker.settings, TOPIC) == {f"late-{number}" for number in range(5)}


async def test_another_log_is_seen_once_its_topics_are_declared(broker, admin) -> None:
    incarnation = Incarnation(broker.settings)
    await incarnation.start()
    incarnation._known = "the log before"
    await admin.delete_topics([TOPIC])
    seen = asyncio.create_task(incarnation.changed())
    await asyncio.wait({seen}, timeout=1.5)
    assert not seen.done()
    await declare_anew(broker.settings)
    await asyncio.wait_for(seen, 10)
    await incarnation.stop()


async def test_what_a_service_said_of_late_is_in_the_new_log(broker, producer) -> None:
    async def publish(event: Event, *, traceparent: str | None = None) -> None:
        record = encode(event, source="/tests", traceparent=traceparent)
        await producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)

    said = Said(broker.settings, publish)
    events = [trained("s1", 1), gate_failed("s1", 2)]
    repeating = asyncio.create_task(said.repeat())
    for event in events:
        await said.say(event)
    for _ in range(2):
        os.kill(broker.pid, signal.SIGKILL)
        await broker.ended()
        await broker.start()
        async with asyncio.timeout(60):
            for event in events:
                while await keys_of(broker.settings, event.TYPE) != {event.task_key}:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
    repeating.cancel()
    await asyncio.gather(repeating, return_exceptions=True)
