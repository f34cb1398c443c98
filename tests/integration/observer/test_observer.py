"""The observer on a real broker and real tables: everything once, whatever it was doing when it stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from services.observer.app import build_app
from services.observer.settings import ObserverSettings
from stillhouse.bus import consumer_options, encode, producer_options
from stillhouse.events import Event, ExampleRecorded
from stillhouse.settings import Kafka
from stillhouse.store import Store
from tests.unit.observer.events import audited, completed

TASK_FILE = """
[task]
name = "intents"
labels = ["a", "b"]

[teacher]
seed = "seed.jsonl"
usd_per_call = 0.002

[[student]]
architecture = "hashed_ngrams"
"""


@pytest.fixture
def settings(broker, tmp_path, monkeypatch):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "intents.toml").write_text(TASK_FILE)
    (tasks / "seed.jsonl").write_text('{"text": "x", "label": "a"}\n')
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STILLHOUSE_TASKS", str(tasks))
    return ObserverSettings(kafka=broker.settings)


@contextlib.asynccontextmanager
async def observer(settings: ObserverSettings) -> AsyncIterator[None]:
    service = build_app(settings)
    await service.broker.connect()
    # All at once: on the embedded broker each group takes three seconds to form.
    await asyncio.gather(*(subscriber.start() for subscriber in service.broker.subscribers))
    try:
        yield
    finally:
        await service.broker.stop()


async def send(kafka: Kafka, events: list[Event]) -> None:
    async with AIOKafkaProducer(**producer_options(kafka)) as producer:
        sent = []
        for event in events:
            record = encode(event, source="/test")
            sent.append(await producer.send(record.topic, record.value, key=record.key, headers=record.headers))
        await asyncio.gather(*sent)


async def heard(kafka: Kafka, wanted: set[str]) -> None:
    """Return when every request of `wanted` has its example in the log."""
    wanted = set(wanted)
    async with AIOKafkaConsumer(ExampleRecorded.TYPE, **consumer_options(kafka)) as consumer:
        async with asyncio.timeout(60):
            while wanted:
                wanted.discard(ExampleRecorded.model_validate_json((await consumer.getone()).value).request_id)


async def test_two_observers_one_after_the_other_write_everything_once(settings) -> None:
    batches = [
        [completed(n) for n in range(300)] + [audited(n) for n in range(1000, 1100)],
        [completed(n) for n in range(200, 500)] + [audited(n) for n in range(1050, 1150)],
    ]
    for events in batches:
        await send(settings.kafka, events)
        async with observer(settings):
            await heard(settings.kafka, {event.request_id for event in events})
    store = Store(settings.home / "store")
    assert store.count_examples("default/intents") == 650
    assert store.audits("default/intents").num_rows == 150
