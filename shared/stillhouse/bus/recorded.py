"""Waiting for the observer: until the ledger holds every cost that is in the log."""

from __future__ import annotations

import asyncio
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from stillhouse.bus.connection import client_options
from stillhouse.events import BY_NAME, CostIncurred, InferenceAudited, InferenceCompleted
from stillhouse.settings import Kafka

TOPICS: Final = (InferenceCompleted.TYPE, InferenceAudited.TYPE, CostIncurred.TYPE)  # what the ledger is made of
LOOK_S: Final = 0.2
PATIENCE_S: Final = 10.0


async def until_recorded(kafka: Kafka, patience_s: float = PATIENCE_S) -> None:
    """Wait until everything that the log holds now is in the ledger. Raises `TimeoutError` where that takes longer."""
    try:
        async with asyncio.timeout(patience_s):
            await asyncio.gather(*(_read(kafka, topic) for topic in TOPICS))
    except KafkaError as error:
        raise TimeoutError(f"the log cannot be asked how far the ledger is behind ({error})") from None
    except TimeoutError:
        raise TimeoutError(f"the ledger is more than {patience_s:g} s behind the log") from None


async def _read(kafka: Kafka, topic: str) -> None:
    """Wait until the observer has acknowledged, which it does after its effect, what `topic` holds now."""
    partitions = [TopicPartition(topic, number) for number in range(BY_NAME[topic].partitions)]
    async with AIOKafkaConsumer(**client_options(kafka)) as consumer:
        begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    left = [partition for partition in partitions if ends[partition] > begins[partition]]
    admin = AIOKafkaAdminClient(**client_options(kafka))
    await admin.start()
    try:
        while left:
            told = await admin.list_consumer_group_offsets(f"observer.{topic}", partitions=left)
            left = [partition for partition in left if told[partition].offset < ends[partition]]
            if left:
                await asyncio.sleep(LOOK_S)
    finally:
        await admin.close()
