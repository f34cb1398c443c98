"""Noticing that the log is another one: the embedded broker keeps nothing, and after its restart begins anew.

Its cluster id names the log's incarnation. Whoever reads under a consumer group need not care: the new broker knows no
group member, so every consumer joins again and starts at the beginning. Consumers without a group must be placed anew:
the embedded broker lets them wait beyond the log's end, and says nothing. And whoever waits for an answer must know.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from stillhouse.bus.connection import client_options, consumer_options, undeclared
from stillhouse.events import BY_NAME
from stillhouse.settings import Kafka

LOOK_S: Final = 0.5
READ_S: Final = 30.0


class Incarnation:
    """The log as it was at `start`; `changed` ends when it is another one."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._admin: AIOKafkaAdminClient | None = None
        self._known: str | None = None

    async def start(self) -> None:
        """Take note of the log. Raises `KafkaError`."""
        self._known = await self._look()

    async def stop(self) -> None:
        """Close the connection."""
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.close()

    async def changed(self) -> None:
        """Wait until there is another log than the one known, its topics declared; from then on that one is known."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                found = await self._look()
                # What is written before its topics are there is cleared away.
                if found == self._known or self._admin is None or await undeclared(self._admin):
                    continue
            except (KafkaError, OSError):
                await self.stop()  # away: whether it comes back as the same is seen then
                continue
            self._known = found
            return

    async def _look(self) -> str:
        if self._admin is None:
            admin = AIOKafkaAdminClient(**client_options(self._kafka))
            try:
                await admin.start()
            except BaseException:
                await admin.close()
                raise
            self._admin = admin
        return str((await self._admin.describe_cluster())["cluster_id"])


async def keys_of(kafka: Kafka, topic: str) -> set[str]:
    """The keys of everything that is in `topic` of the catalogue now. Raises `TimeoutError` and `KafkaError`."""
    keys: set[str] = set()
    consumer = AIOKafkaConsumer(**consumer_options(kafka, urgent=True))
    try:
        async with asyncio.timeout(READ_S):
            await consumer.start()
            ends = await consumer.end_offsets([TopicPartition(topic, n) for n in range(BY_NAME[topic].partitions)])
            left = {partition: end for partition, end in ends.items() if end > 0}
            consumer.assign(list(left))
            for partition in left:
                consumer.seek(partition, 0)
            while left:
                for partition, batch in (await consumer.getmany(*left, timeout_ms=200)).items():
                    keys |= {record.key.decode(errors="replace") for record in batch if record.key}
                    if batch and batch[-1].offset + 1 >= left[partition]:
                        del left[partition]
    finally:
        await consumer.stop()
    return keys
