"""Drift alerts as an application hears them: from now on, its own task's, until it has enough or the client ends."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaProducer

from stillhouse.bus import encode, producer_options
from stillhouse.client import Client
from stillhouse.events import DriftCleared, DriftDetected, Event


def detected(student_id: str, task: str = "intents", tenant: str = "default") -> DriftDetected:
    return DriftDetected(
        tenant=tenant,
        task=task,
        student_id=student_id,
        statistic=14.0,
        alarm_level=13.8,
        audits=300,
        estimate=0.8,
        lower=0.7,
        upper=0.9,
        window=100,
    )


async def send(settings, *events: Event) -> None:
    async with AIOKafkaProducer(**producer_options(settings.kafka)) as producer:
        for event in events:
            record = encode(event, source="/test")
            await producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)


async def test_alerts_from_now_on_and_of_one_task(settings) -> None:
    await send(settings, detected("long-ago"))
    cleared = DriftCleared(task="intents", student_id="s2", previous_student_id="s1")
    async with Client(settings) as client, asyncio.timeout(60):
        alerts = client.drift_alerts(task="intents")
        first = asyncio.ensure_future(anext(alerts))
        while not first.done():  # "now" is when its place in the log is fixed
            await send(settings, detected("s9", task="other"), detected("s8", tenant="acme"), detected("s1"))
        await send(settings, cleared)
        heard: list[Event] = [await first]
        while heard[-1] != cleared:
            heard.append(await anext(alerts))
        await alerts.aclose()
    assert {event.student_id for event in heard[:-1] if isinstance(event, DriftDetected)} == {"s1"}
    assert len(heard) > 1


async def test_listening_ends_with_the_client(settings) -> None:
    heard: list[str] = []
    one = asyncio.Event()

    async def listen(client: Client) -> None:
        async for alert in client.drift_alerts():
            heard.append(alert.student_id)
            one.set()

    async with asyncio.timeout(60):
        async with Client(settings) as client:
            listening = asyncio.create_task(listen(client))
            while not one.is_set():
                await send(settings, detected("s1", task="one"), detected("s2", task="two"))
        await listening
    assert set(heard) <= {"s1", "s2"}
