"""The Python client: publishes requests to the log and waits for their answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from stillhouse.bus import BadRecord, consumer_options, decode, encode, producer_options
from stillhouse.bus.connection import write_to_declared_topics_only
from stillhouse.bus.incarnation import Incarnation, keys_of
from stillhouse.events import (
    DriftCleared,
    DriftDetected,
    DriftSuspected,
    Failure,
    InferenceCompleted,
    InferenceRequested,
    follow_id,
)
from stillhouse.models.rerank_request import RerankRequest
from stillhouse.observing import Observations, observed
from stillhouse.settings import Kafka, Settings

P = ParamSpec("P")
R = TypeVar("R")

STOP_S: Final = 10.0

log = structlog.get_logger()


class RequestFailed(Exception):
    """The request was answered with an error; the message is the platform's own sentence."""

    def __init__(self, completed: InferenceCompleted) -> None:
        assert completed.failure is not None
        super().__init__(f"{completed.failure.code}: {completed.failure.message}")
        self.completed = completed


class Client:
    """`async with Client() as client: answer = await client.request(task="t", input="...")`.

    Without `settings` it reaches what the environment names (`STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS`), or else the
    embedded profile that `stillhouse up` started in this folder.
    """

    def __init__(self, settings: Settings | None = None, *, source: str = "/client/python") -> None:
        self._settings = settings or _settings_here()
        self._source = source
        self._waiting: dict[str, asyncio.Future[InferenceCompleted]] = {}
        self._accepted: dict[str, InferenceRequested] = {}  # in the log, and not answered yet
        self._observations = Observations(source)
        self._listening: set[AIOKafkaConsumer] = set()

    async def __aenter__(self) -> Self:
        kafka = self._settings.kafka
        self._producer = AIOKafkaProducer(**producer_options(kafka))
        write_to_declared_topics_only(self._producer, kafka)
        await self._producer.start()
        try:
            # Positions are fixed before the first request leaves, so that no answer is missed.
            self._consumer = await _from_now_on(kafka, (InferenceCompleted.TYPE,))
        except BaseException:
            await _stop(self._producer)
            raise
        self._observations.start(self._producer)
        self._working = [asyncio.create_task(self._read())]
        if kafka.embedded:  # any other Kafka keeps what it accepted
            incarnation = Incarnation(kafka)
            try:
                await incarnation.start()
            except BaseException:
                await self.__aexit__(None, None, None)
                raise
            self._working.append(asyncio.create_task(self._watch(incarnation)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._observations.close()
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        for future in self._waiting.values():
            future.cancel()
        await _stop(self._consumer, *self._listening, self._producer)

    async def submit(self, request: InferenceRequested) -> asyncio.Future[InferenceCompleted]:
        """Publish a request; the future holds its answer. Raises `TooLarge` before anything is sent.

        Where the (embedded) broker was restarted and has lost the request, the answer is an error with the code `lost`,
        as one that the platform gives: send it again, with the same id where it may have been answered already.
        """
        record = encode(request, source=self._source)
        future: asyncio.Future[InferenceCompleted] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = future
        future.add_done_callback(lambda done: self._forget(request.id, done))
        try:
            await self._producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)
        except BaseException:
            future.cancel()
            raise
        if not future.done():
            self._accepted[request.id] = request
        return future

    async def request(
        self, *, task: str, input: str, tenant: str = "default", timeout: float = 60.0
    ) -> InferenceCompleted:
        """Ask and wait, at most `timeout` seconds. Raises `RequestFailed` and `TimeoutError`."""
        return await self._ask(InferenceRequested(tenant=tenant, task=task, input=input), timeout)

    async def rerank(
        self, *, task: str, query: str, documents: Sequence[str], tenant: str = "default", timeout: float = 60.0
    ) -> InferenceCompleted:
        """Have documents ranked; the output is the JSON list of their places, best first. Raises as `request` does.

        The scores by place are in the answer's `distribution`. `ValueError` for an empty query, list or document.
        """
        asked = RerankRequest(query=query, documents=tuple(documents)).as_input()
        request = InferenceRequested(tenant=tenant, task=task, input=asked, input_type="rerank")
        return await self._ask(request, timeout)

    async def _ask(self, request: InferenceRequested, timeout: float) -> InferenceCompleted:
        asked = request.model_copy(update={"deadline_ms": max(1, int(timeout * 1000))})
        async with asyncio.timeout(timeout):
            completed = await (await self.submit(asked))
        if completed.status == "error":
            raise RequestFailed(completed)
        return completed

    def observe(
        self,
        *,
        task: str,
        tenant: str = "default",
        model: str = "observed",
        input: Callable[..., str] | None = None,
        output: Callable[[Any], str] | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Record every call of a (sync or async) function that asks the application's own teacher; route nothing.

        The function's first text argument is the input and its result the output, unless `input` (which gets the
        call's arguments) or `output` (which gets the result) say what is. `model` names the teacher's version. Calls
        keep their results, exceptions and duration: recording happens in the background, is finished when the client
        is closed, and never raises. `ValueError` for a task or tenant that cannot be one.
        """

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            return observed(
                function, self._observations, task=task, tenant=tenant, model=model, input=input, output=output
            )

        return decorate

    @property
    def observations_lost(self) -> int:
        """Observed calls that were not recorded; the log says why the first one was not."""
        return self._observations.lost

    async def drift_alerts(
        self, task: str | None = None, tenant: str = "default"
    ) -> AsyncIterator[DriftDetected | DriftSuspected | DriftCleared]:
        """Drift alarms, suspicions and their ends, from now on: of one task, or of all of the tenant's.

        It ends with the client.
        """
        consumer = await _from_now_on(
            self._settings.kafka, (DriftDetected.TYPE, DriftSuspected.TYPE, DriftCleared.TYPE)
        )
        self._listening.add(consumer)
        told: set[str] = set()  # an embedded broker's new log is read from its beginning, and may say them again
        try:
            async for record in consumer:
                try:
                    event = decode(record.topic, record.value)
                except BadRecord:
                    continue  # the services that take this topic put it aside and say why
                wanted = event.tenant == tenant and task in (None, event.task) and event.id not in told
                if wanted and isinstance(event, DriftDetected | DriftSuspected | DriftCleared):
                    told.add(event.id)
                    yield event
        finally:
            self._listening.discard(consumer)
            await _stop(consumer)

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

    def _forget(self, request_id: str, future: asyncio.Future[InferenceCompleted]) -> None:
        # Not where it was sent again meanwhile: then another one waits for the answer.
        if self._waiting.get(request_id) is future:
            del self._waiting[request_id]
            self._accepted.pop(request_id, None)

    async def _watch(self, incarnation: Incarnation) -> None:
        """Whenever the log is a new one: read it from its beginning, and answer what the old one took with it: lost."""
        try:
            while True:
                await incarnation.changed()
                accepted = dict(self._accepted)
                # They would wait at their old positions until the new log is as long, and miss what is before that.
                for consumer in (self._consumer, *self._listening):
                    for partition in consumer.assignment():
                        consumer.seek(partition, 0)
                # Some may have been sent to the new log before it was noticed here.
                kept: set[str] | None = None
                while accepted and kept is None:
                    try:
                        kept = await keys_of(self._settings.kafka, InferenceRequested.TYPE)
                    except (KafkaError, OSError, TimeoutError) as error:
                        log.warning("log_not_read", error=f"{type(error).__name__}: {error}")
                for request_id in accepted.keys() - (kept or set()):
                    future = self._waiting.get(request_id)
                    if future is not None and not future.done():
                        future.set_result(_lost(accepted[request_id]))
        finally:
            await incarnation.stop()


def _lost(request: InferenceRequested) -> InferenceCompleted:
    message = "the broker was restarted and has lost the request; send it again."
    return InferenceCompleted(
        id=follow_id(request.id, InferenceCompleted.TYPE, request.subject),
        tenant=request.tenant,
        task=request.task,
        request_id=request.id,
        purpose=request.purpose,
        status="error",
        failure=Failure(code="lost", message=message),
    )


def _settings_here() -> Settings:
    from stillhouse.embedded.profile import running_settings

    settings = Settings()
    return settings if "kafka" in settings.model_fields_set else running_settings(settings.home)


async def _from_now_on(kafka: Kafka, topics: Sequence[str]) -> AIOKafkaConsumer:
    """A consumer without a group that reads what is written to `topics` after this returns. `ConnectionError`."""
    consumer = AIOKafkaConsumer(**consumer_options(kafka, urgent=True))
    await consumer.start()
    try:
        partitions = []
        for topic in topics:
            numbers = consumer.partitions_for_topic(topic)
            if not numbers:
                raise ConnectionError(f"{kafka.bootstrap_servers} has no topic {topic!r}; declare the topics first.")
            partitions += [TopicPartition(topic, number) for number in sorted(numbers)]
        ends = await consumer.end_offsets(partitions)
        # Assigned and placed in one step: a partition without a position begins to reset itself at the next `await`,
        # and that reset may end after a seek. It stays for offsets that the log has lost: then all there is, is new.
        consumer.assign(partitions)
        for partition, end in ends.items():
            consumer.seek(partition, end)
    except BaseException:
        await _stop(consumer)
        raise
    return consumer


async def _stop(*parts: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Stop `parts` within 10 s: a broker that is away must neither hold up the application nor raise at its exit.

    aiokafka's producer would wait for its request timeout, and its consumer lets cancellations of its own tasks out.
    """
    stopping = [asyncio.create_task(part.stop()) for part in parts]
    _, late = await asyncio.wait(stopping, timeout=STOP_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*stopping, return_exceptions=True)
