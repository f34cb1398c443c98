"""Reading topics without a group: everything up to now, and what comes after."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillhouse.events import Event
from stillhouse.settings import Kafka

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record as the log holds it. `time_ms` is its timestamp, milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    time_ms: int


async def read_records(kafka: Kafka, topics: Sequence[str]) -> list[RawRecord]:
    """Every record that `topics` hold now, oldest first. Topics that do not exist hold none."""
    found = [record async for record in each_record(kafka, topics)]
    return sorted(found, key=lambda record: (record.time_ms, record.topic, record.partition, record.offset))


async def each_record(kafka: Kafka, topics: Sequence[str]) -> AsyncIterator[RawRecord]:
    """Every record that `topics` hold now, in order within a partition; few are in memory at a time."""
    async with _assigned(kafka, topics) as (consumer, partitions):
        if not partitions:
            return
        ends = await consumer.end_offsets(partitions)
        waiting = {partition for partition in partitions if await consumer.position(partition) < ends[partition]}
        while waiting:
            for partition, records in (await consumer.getmany(*waiting, timeout_ms=200)).items():
                for record in records:
                    # The embedded broker's end is that of the last batch's first record: what a fetch gives beyond it
                    # was there, too.
                    if record.offset < ends[partition] or kafka.embedded:
                        yield _raw(record)
            waiting = {partition for partition in waiting if await consumer.position(partition) < ends[partition]}


async def follow_records(kafka: Kafka, topics: Sequence[str]) -> AsyncIterator[RawRecord]:
    """Every record of `topics`, from the first one on, for ever."""
    async with _assigned(kafka, topics) as (consumer, _):
        async for record in consumer:
            yield _raw(record)


async def newest_record_times(kafka: Kafka, topics: Sequence[str]) -> dict[str, int]:
    """By topic, the time of its newest record in milliseconds since 1970; topics without records are left out.

    The last record of each partition is looked at; one that does not come within 5 s is left out.
    """
    times: dict[str, int] = {}
    async with _assigned(kafka, topics) as (consumer, partitions):
        if not partitions:
            return times
        begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        waiting = {partition for partition in partitions if ends[partition] > begins[partition]}
        for partition in waiting:
            await consumer.position(partition)  # after this its own reset is over, and does not overtake the seek
            consumer.seek(partition, ends[partition] - 1)
        for _ in range(25):
            if not waiting:
                break
            for partition, records in (await consumer.getmany(*waiting, timeout_ms=200)).items():
                waiting.discard(partition)
                newest = max(record.timestamp for record in records)
                times[partition.topic] = max(times.get(partition.topic, 0), newest)
    return times


def events_of(records: Sequence[RawRecord]) -> list[Event]:
    """The events in `records`, by their own time; records that hold none are left out."""
    from stillhouse.bus import BadRecord, decode

    found = []
    for record in records:
        try:
            found.append(decode(record.topic, record.value))
        except BadRecord:
            continue  # the service that takes this topic puts it aside and says why
    return sorted(found, key=lambda event: event.time)


@asynccontextmanager
async def _assigned(kafka: Kafka, topics: Sequence[str]) -> AsyncIterator[tuple[AIOKafkaConsumer, list[Any]]]:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    from stillhouse.bus import client_options

    wait = {"fetch_max_wait_ms": 100} if kafka.embedded else {}
    # `earliest` rather than a seek to the beginning: the consumer resets new partitions by itself, and where it had
    # begun to (to the end, by default), that overtakes a seek.
    beginning = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
    consumer = AIOKafkaConsumer(**client_options(kafka), **wait, **beginning)
    try:
        await consumer.start()
        known = await consumer.topics()
        partitions = [
            TopicPartition(topic, number)
            for topic in topics
            if topic in known
            for number in sorted(consumer.partitions_for_topic(topic) or ())
        ]
        consumer.assign(partitions)
        yield consumer, partitions
    finally:
        await consumer.stop()


def _raw(record: Any) -> RawRecord:
    return RawRecord(
        record.topic,
        record.partition,
        record.offset,
        record.key,
        record.value,
        tuple(record.headers),
        record.timestamp,
    )
