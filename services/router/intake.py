"""Reads requests, answers them concurrently and out of order, commits the low-water mark of each partition.

A slow call holds up neither the calls behind it nor, beyond its own partition's mark, their commits. What is in
flight is bounded: a full router stops reading. A record is done when its answer is in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from stillhouse.bus import BadRecord, LowWaterMark, decode, encode, header
from stillhouse.events import InferenceCompleted, InferenceRequested
from stillhouse.telemetry.metrics import metrics

SOURCE = "/services/router"
DEAD_LETTERS = "dlq.router"

log = structlog.get_logger()

Answerer = Callable[[InferenceRequested], Awaitable[InferenceCompleted]]


class Intake(ConsumerRebalanceListener):  # type: ignore[misc]
    """The loop from `inference.requested` to `inference.completed`."""

    def __init__(
        self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, answer: Answerer, *, max_in_flight: int = 256
    ) -> None:
        self._consumer = consumer
        self._producer = producer
        self._answer = answer
        self._slots = asyncio.Semaphore(max_in_flight)
        self._marks: dict[TopicPartition, LowWaterMark] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Read until cancelled. Raises what kept an answer from being written."""
        self._consumer.subscribe([InferenceRequested.TYPE], listener=self)
        working = {asyncio.create_task(self._read()), asyncio.create_task(self._commit_regularly()), self._broken}
        try:
            done, _ = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            for task in working:
                task.cancel()

    async def drain(self, grace: float) -> None:
        """Finish what is in flight within `grace` seconds, and commit what is done; the rest is read again."""
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=grace)
            for call in late:
                call.cancel()
        await self._commit()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Commit while the partitions are still ours, then forget them: the next owner begins at the mark."""
        await self._commit()
        for partition in revoked:
            self._marks.pop(partition, None)
            self._committed.pop(partition, None)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Begin with a clean mark: offsets of an earlier assignment say nothing about this one."""
        for partition in assigned:
            self._marks.pop(partition, None)
            self._committed.pop(partition, None)

    async def _read(self) -> None:
        async for record in self._consumer:
            await self._slots.acquire()
            mark = self._marks.setdefault(TopicPartition(record.topic, record.partition), LowWaterMark())
            mark.begin(record.offset)
            call = asyncio.create_task(self._handle(record, mark))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _handle(self, record: Any, mark: LowWaterMark) -> None:
        try:
            await self._effect(record)
            mark.end(record.offset)
        except Exception as error:
            # The record is not done and must not be passed over: the router ends with this error, and whoever
            # owns the partition next reads it again.
            if not self._broken.done():
                self._broken.set_exception(error)
        finally:
            self._slots.release()

    async def _effect(self, record: Any) -> None:
        try:
            request = decode(record.topic, record.value)
        except BadRecord as error:
            await self._bury(record, str(error))
            return
        assert isinstance(request, InferenceRequested)
        traceparent = header(record.headers, "traceparent")
        with metrics().in_flight.track_inprogress():
            completed = await self._answer(request)
        answered = encode(completed, source=SOURCE, traceparent=traceparent)
        await self._producer.send_and_wait(answered.topic, answered.value, key=answered.key, headers=answered.headers)
        if request.reply_to and request.reply_to != answered.topic:
            await self._producer.send_and_wait(
                request.reply_to, answered.value, key=answered.key, headers=answered.headers
            )

        served_by = completed.served_by or "nobody"
        # An undeclared task's name is the client's own text: it must not become a label.
        reason = completed.reason or (completed.failure.code if completed.failure else "none")
        known = completed.failure is None or completed.failure.code != "unknown_task"
        task = completed.task_key if known else "unknown"
        metrics().requests.labels(task, served_by, reason, completed.status).inc()
        metrics().request_latency.labels(served_by).observe(completed.latency_ms / 1000)

    async def _bury(self, record: Any, reason: str) -> None:
        metrics().dead_letters.labels("router", record.topic, "bad_record").inc()
        log.warning("dead_letter", topic=record.topic, partition=record.partition, offset=record.offset, reason=reason)
        origin = f"{record.topic}/{record.partition}/{record.offset}"
        headers = [*record.headers, ("dlq_reason", reason.encode()), ("dlq_origin", origin.encode())]
        await self._producer.send_and_wait(DEAD_LETTERS, record.value, key=record.key, headers=headers)

    async def _commit_regularly(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            try:
                await self._commit()
            except KafkaError as error:
                log.warning("commit_failed", error=str(error))

    async def _commit(self) -> None:
        positions = {
            partition: mark.position
            for partition, mark in self._marks.items()
            if mark.position is not None and mark.position != self._committed.get(partition)
        }
        if positions:
            await self._consumer.commit(positions)
            self._committed.update(positions)
