"""The embedded broker's new log: its topics are what the catalogue says, and what was said to the old one is in it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from stillhouse.bus import client_options, encode, producer_options
from stillhouse.bus.connection import declare_anew, undeclared, write_to_declared_topics_only
from stillhouse.bus.incarnation import Incarnation, keys_of
from stillhouse.bus.said import KEPT, Said
from stillhouse.embedded.broker import EmbeddedBroker
from stillhouse.events import CATALOGUE, Event, InferenceRequested, TrainingStarted
from stillhouse.settings import Kafka
from tests.faults.outside import read
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


async def test_a_producer_holds_its_records_back_until_the_topics_are_there(broker, admin) -> None:
    ours = AIOKafkaProducer(**producer_options(broker.settings))
    write_to_declared_topics_only(ours, broker.settings)
    async with ours:
        await ours.send_and_wait(TOPIC, b"x", key=b"before", partition=3)
        os.kill(broker.pid, signal.SIGKILL)
        await broker.ended()
        sent = [await ours.send(TOPIC, b"x", key=f"{number}".encode(), partition=3) for number in range(3)]

        async def nothing(kafka: Kafka) -> None:
            """Declares no topics."""

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stillhouse.embedded.broker.declare_anew", nothing)
            await broker.start()
        await asyncio.wait(sent, timeout=1.5)
        assert not any(record.done() for record in sent)
        await declare_anew(broker.settings)
        assert sorted(record.offset for record in await asyncio.gather(*sent)) == [0, 1, 2]
        assert (await ours.send_and_wait(TOPIC, b"x", key=b"3", partition=3)).offset == 3
    assert await keys_of(broker.settings, TOPIC) == {"0", "1", "2", "3"}


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


async def test_what_a_service_said_is_in_every_new_log_though_it_was_killed_with_the_old_one(
    broker, producer, tmp_path
) -> None:
    async def publish(event: Event, *, traceparent: str | None = None) -> None:
        record = encode(event, source="/tests", traceparent=traceparent)
        await producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)

    file = tmp_path / "said" / "trainer.jsonl"
    before = Said(broker.settings, publish, file)
    for number in range(2 * KEPT):
        await before.say(gate_failed(f"s{number}", number))
    nobody_hears = TrainingStarted(task="intents", job_id="j", student_id="s", architecture="a", n_examples=1)
    await before.say(nobody_hears)
    with file.open("a") as left:
        left.write('{"type": "gate.fai')  # it was killed

    said = Said(broker.settings, publish, file)
    await said.say(trained("s1", 1))
    repeating = asyncio.create_task(said.repeat())
    for _ in range(2):
        os.kill(broker.pid, signal.SIGKILL)
        await broker.ended()
        await broker.start()
        async with asyncio.timeout(60):
            while not await read(broker.settings, "student.trained"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        failed = await read(broker.settings, "gate.failed")
        assert [event.student_id for event in failed] == [f"s{number}" for number in range(KEPT + 1, 2 * KEPT)]
        assert await read(broker.settings, "training.started") == []
    repeating.cancel()
    await asyncio.gather(repeating, return_exceptions=True)
    assert len(file.read_text().splitlines()) == KEPT
