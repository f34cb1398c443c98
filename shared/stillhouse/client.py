"""The Python client: publishes requests to the log and waits for their answers."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stillhouse.bus import BadRecord, client_options, decode, encode, producer_options
from stillhouse.events import InferenceCompleted, InferenceRequested
from stillhouse.settings import Settings


class RequestFailed(Exception):
    """The request was answered with an error; the message is the platform's own sentence."""

    def __init__(self, completed: InferenceCompleted) -> None:
        assert completed.failure is not None
        super().__init__(f"{completed.failure.code}: {completed.failure.message}")
        self.completed = completed


class Client:
    """`async with Client() as client: answer = await client.request(task="t", input="...")`."""

    def __init__(self, settings: Settings | None = None, *, source: str = "/client/python") -> None:
        self._settings = settings or Settings()
        self._source = source
        self._waiting: dict[str, asyncio.Future[InferenceCompleted]] = {}

    async def __aenter__(self) -> Self:
        kafka = self._settings.kafka
        wait = {"fetch_max_wait_ms": 20} if kafka.embedded else {}
        self._producer = AIOKafkaProducer(**producer_options(kafka))
        self._consumer = AIOKafkaConsumer(**client_options(kafka), **wait, enable_auto_commit=False)
        await self._producer.start()
        try:
            await self._consumer.start()
            partitions = self._consumer.partitions_for_topic(InferenceCompleted.TYPE)
            if not partitions:
                raise ConnectionError(
                    f"{kafka.bootstrap_servers} has no topic {InferenceCompleted.TYPE!r}; declare the topics first."
                )
            assigned = [TopicPartition(InferenceCompleted.TYPE, number) for number in sorted(partitions)]
            self._consumer.assign(assigned)
            # Positions are fixed before the first request leaves, so that no answer is missed.
            await self._consumer.seek_to_end(*assigned)
            for partition in assigned:
                await self._consumer.position(partition)
        except BaseException:
            await self._consumer.stop()
            await self._producer.stop()
            raise
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        for future in self._waiting.values():
            future.cancel()
        await self._consumer.stop()
        await self._producer.stop()

    async def submit(self, request: InferenceRequested) -> asyncio.Future[InferenceCompleted]:
        """Publish a request; the future holds its answer. Raises `TooLarge` before anything is sent."""
        record = encode(request, source=self._source)
        future: asyncio.Future[InferenceCompleted] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = future
        future.add_done_callback(lambda _: self._waiting.pop(request.id, None))
        try:
            await self._producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)
        except BaseException:
            future.cancel()
            raise
        return future

    async def request(
        self, *, task: str, input: str, tenant: str = "default", timeout: float = 60.0
    ) -> InferenceCompleted:
        """Ask and wait, at most `timeout` seconds. Raises `RequestFailed` and `TimeoutError`."""
        asked = InferenceRequested(tenant=tenant, task=task, input=input, deadline_ms=max(1, int(timeout * 1000)))
        async with asyncio.timeout(timeout):
            completed = await (await self.submit(asked))
        if completed.status == "error":
            raise RequestFailed(completed)
        return completed

    async def _read(self) -> None:
        async for record in self._consumer:
            try:
                completed = decode(record.topic, record.value)
            except BadRecord:
                continue  # somebody else's broken record answers nobody
            if not isinstance(completed, InferenceCompleted):
                continue
            future = self._waiting.get(completed.request_id)
            if future is not None and not future.done():
                future.set_result(completed)
