"""Composes the router."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from services.router.answering import answer
from services.router.intake import Intake
from stillhouse.bus import consumer_options, producer_options
from stillhouse.models.port import Model
from stillhouse.settings import Settings
from stillhouse.tasks import Task

GROUP = "router.intake"


async def serve(
    settings: Settings,
    tasks: Mapping[str, Task],
    teachers: Mapping[str, Model],
    stop: asyncio.Event,
    *,
    grace: float = 15.0,
) -> None:
    """Answer requests until `stop` is set; then finish and commit what is in flight (`grace` seconds at most)."""
    producer = AIOKafkaProducer(**producer_options(settings.kafka))
    consumer = AIOKafkaConsumer(group_id=GROUP, **consumer_options(settings.kafka))
    await producer.start()
    await consumer.start()
    intake = Intake(consumer, producer, partial(answer, tasks=tasks, teachers=teachers))
    reading = asyncio.create_task(intake.run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()  # the loop ends by itself only with an error: let it end the process
    finally:
        stopping.cancel()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        try:
            await intake.drain(grace)
        finally:
            await consumer.stop()
            await producer.stop()
