"""Reads requests, answers them concurrently and out of order, commits the low-water mark of each partition.

A slow call holds up neither the calls behind it nor, beyond its own partition's mark, their commits. What is in
flight is bounded: a full router stops reading. A record is done when its answer and its audits are in the log; the same
request again gets the same answer again, and nobody is asked twice, not even when its partition moves to another router
while it is in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from opentelemetry import trace
from structlog.contextvars import bind_contextvars

from services.router.answering import Answered, without_input
from services.router.done import DoneMarks, NoMarks
from stillhouse.bus import BadRecord, LowWaterMark, Record, TooLarge, decode, encode, header, new_traceparent
from stillhouse.bus.consumption import Consumption
from stillhouse.events import BY_NAME, Event, InferenceCompleted, InferenceRequested
from stillhouse.models.chat.completion import OnText
from stillhouse.telemetry import names
from stillhouse.telemetry.metrics import metrics
from stillhouse.telemetry.tracing import span_context_of, traceparent_of

GROUP = "router.intake"
SOURCE = "/services/router"
DEAD_LETTERS = "dlq.router"
LAG_S = 5.0
READ_MS = 1000

log = structlog.get_logger()

Answerer = Callable[[InferenceRequested, OnText | None], Awaitable[Answered]]


class Intake(ConsumerRebalanceListener):  # type: ignore[misc]
    """The loop from `inference.requested` to `inference.completed`."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        producer: AIOKafkaProducer,
        answer: Answerer,
        marks: DoneMarks,
        max_in_flight: int,
        consumption: Consumption,
    ) -> None:
        self._consumer = consumer
        self._producer = producer
        self._answer = answer
        self._done = marks
        self._consumption = consumption
        self._first: dict[str, asyncio.Future[None]] = {}  # request id -> ends when its first record is done with
        self._tracer = trace.get_tracer("stillhouse.router")
        self._max_in_flight = max_in_flight
        self._room = asyncio.Event()  # set when one of them has ended
        self._assigned = 0  # counts the times that partitions were dealt out
        self._marks: dict[TopicPartition, LowWaterMark] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Read until cancelled. Raises what kept an answer from being written."""
        self._consumer.subscribe([InferenceRequested.TYPE], listener=self)
        loops = (self._read(), self._commit_regularly(), self._measure_lag_regularly())
        working = {*map(asyncio.create_task, loops), self._broken}
        try:
            done, _ = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            for task in working:
                task.cancel()

    async def ask(
        self, request: InferenceRequested, traceparent: str, on_text: OnText | None = None, *, again: bool = True
    ) -> InferenceCompleted:
        """The answer to a request that did not come through the topic; it is recorded as those are.

        `again`: the same request may come again. Whoever waits may go; the call goes on. Raises what kept the answer
        from being written.
        """
        heard: asyncio.Future[InferenceCompleted] = asyncio.get_running_loop().create_future()
        marks = self._done if again else NoMarks()
        call = asyncio.create_task(self._asked(request, traceparent, marks, heard, on_text))
        self._calls.add(call)
        call.add_done_callback(self._ended)
        return await heard

    async def _asked(
        self,
        request: InferenceRequested,
        traceparent: str,
        marks: DoneMarks | NoMarks,
        heard: asyncio.Future[InferenceCompleted],
        on_text: OnText | None,
    ) -> None:
        def hear(completed: InferenceCompleted) -> None:
            if not heard.done():
                heard.set_result(completed)

        try:
            await self._route(request, traceparent, marks, hear, on_text)
        except Exception as error:  # nobody reads it again: its client does
            log.warning("direct_request_failed", event_id=request.id, error=f"{type(error).__name__}: {error}")
            if not heard.done():
                heard.set_exception(error)
        finally:
            if not heard.done():  # parked, or cut short by the end of the router
                heard.set_exception(OSError("the router ends"))

    async def drain(self, grace: float) -> None:
        """Finish what is in flight within `grace` seconds, and commit what is done; the rest is read again."""
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=grace)
            for call in late:
                call.cancel()
        try:
            await self._commit()
        except KafkaError as error:
            log.warning("commit_failed", error=f"{type(error).__name__}: {error}")

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Commit while the partitions are still ours, then forget them: the next owner begins at the mark."""
        try:
            await self._commit()
        except KafkaError as error:  # the group may know us no more; what is not committed is read again
            log.warning("commit_failed", error=f"{type(error).__name__}: {error}")
        self._assigned += 1
        for partition in revoked:
            # A mark that stayed would be committed with the others, and its refusal would refuse them all.
            self._marks.pop(partition, None)
            self._committed.pop(partition, None)
            # The next owner says how far behind it is.
            metrics().consumer_lag.remove(GROUP, partition.topic, str(partition.partition))

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Begin with a clean mark: offsets of an earlier assignment say nothing about this one."""
        for partition in assigned:
            self._marks.pop(partition, None)
            self._committed.pop(partition, None)

    async def _read(self) -> None:
        while True:
            while len(self._calls) >= self._max_in_flight:
                self._room.clear()
                await self._room.wait()
            # All that are there, up to what there is room for: taking one costs as much as taking many.
            room = self._max_in_flight - len(self._calls)
            batches = await self._consumer.getmany(timeout_ms=READ_MS, max_records=room)
            assigned = self._assigned
            for partition, records in batches.items():
                for record in records:
                    await self._consumption.allowed(record.topic)
                    if assigned != self._assigned:  # while it waited; whoever has its partition now begins at the mark
                        break
                    mark = self._marks.setdefault(partition, LowWaterMark())
                    mark.begin(record.offset)
                    call = asyncio.create_task(self._handle(record, mark))
                    self._calls.add(call)
                    call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._room.set()

    async def _handle(self, record: Any, mark: LowWaterMark) -> None:
        try:
            await self._effect(record)
            mark.end(record.offset)
        except Exception as error:
            # The record is not done and must not be passed over: the router ends with this error, and whoever
            # owns the partition next reads it again.
            if not self._broken.done():
                self._broken.set_exception(error)

    async def _effect(self, record: Any) -> None:
        try:
            request = decode(record.topic, record.value)
        except BadRecord as error:
            await self._bury(record, str(error))
            self._consumption.count(record.topic, 0, 1)
            return
        self._consumption.count(record.topic, 1, 0)
        assert isinstance(request, InferenceRequested)
        await self._route(request, header(record.headers, "traceparent"), self._done)

    async def _route(
        self,
        request: InferenceRequested,
        given: str | None,
        marks: DoneMarks | NoMarks,
        hear: Callable[[InferenceCompleted], None] | None = None,
        on_text: OnText | None = None,
    ) -> None:
        # The same id twice at once: the second waits for the first, and then finds its answer.
        while (first := self._first.get(request.id)) is not None:
            await asyncio.wait([first])
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._first[request.id] = mine
        try:
            # Answer and audits of one request are of one trace, whether or not its sender began one.
            parent = span_context_of(given) or span_context_of(new_traceparent())
            context = trace.set_span_in_context(trace.NonRecordingSpan(parent)) if parent else None
            with self._tracer.start_as_current_span(names.SPAN_ROUTE, context=context) as span:
                span.set_attribute(names.ATTR_REQUEST_ID, request.id)
                span.set_attribute(names.ATTR_TASK, request.task_key)
                # Of this record's own asyncio task, which ends with it: nothing is to be unbound.
                bind_contextvars(event_id=request.id, task=request.task_key)
                await self._once(request, traceparent_of(span), marks, hear, on_text)
        finally:
            del self._first[request.id]
            mine.set_result(None)

    async def _once(
        self,
        request: InferenceRequested,
        traceparent: str | None,
        marks: DoneMarks | NoMarks,
        hear: Callable[[InferenceCompleted], None] | None,
        on_text: OnText | None,
    ) -> None:
        known = await marks.begin(request.id)
        if known is not None:
            metrics().duplicates_suppressed.labels("router").inc()
            await self._say(known, traceparent, request.reply_to)
            if hear is not None:
                hear(known)
            return
        try:
            with metrics().in_flight.track_inprogress():
                answered = await self._answer(request, on_text)
                if answered.parked is not None:
                    await self._say(answered.parked, traceparent)
                    await marks.give_up(request.id)
                    return
                answer = await self._say(answered.completed, traceparent, request.reply_to)
                if hear is not None:
                    hear(answered.completed)
                _count(answered.completed)
                for audited in await answered.audits():
                    await self._say(audited, traceparent)
        except BaseException:
            await marks.give_up(request.id)
            raise
        if answered.completed.status == "ok":
            await marks.set(request.id, answer)
        else:  # an error may be mended: asked again, it is tried again
            await marks.give_up(request.id)

    async def _say(self, event: Event, traceparent: str | None, copy_to: str | None = None) -> bytes:
        """Write `event` to its topic; the JSON that was written."""
        try:
            record = encode(event, source=SOURCE, traceparent=traceparent)
        except TooLarge as error:
            # Input and answer together can outgrow a record that the input alone fitted into.
            log.warning("too_large", event_type=event.TYPE, event_id=event.id, error=str(error))
            if not isinstance(event, InferenceCompleted):
                return b""
            record = encode(without_input(event, str(error)), source=SOURCE, traceparent=traceparent)
        await self._producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)
        if copy_to is not None and copy_to != record.topic:
            await self._copy(event, record, copy_to)
        return record.value

    async def _copy(self, event: Event, record: Record, topic: str) -> None:
        if topic in BY_NAME:
            log.warning("reply_to_refused", event_id=event.id, topic=topic)
            return
        try:
            await self._producer.send_and_wait(topic, record.value, key=record.key, headers=record.headers)
        except KafkaError as error:  # a topic that is not there is its sender's mistake, and the answer is in the log
            log.warning("reply_to_failed", event_id=event.id, error=f"{type(error).__name__}: {error}")

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

    async def _measure_lag_regularly(self) -> None:
        while True:
            await asyncio.sleep(LAG_S)
            try:
                # Asked for, not taken from the fetches: a full router does not fetch, and is the one that lags.
                ends = await self._consumer.end_offsets(list(self._consumer.assignment()))
                for partition, end in ends.items():
                    if partition in self._consumer.assignment():
                        lag = max(0, end - await self._consumer.position(partition))
                        metrics().consumer_lag.labels(GROUP, partition.topic, str(partition.partition)).set(lag)
            except KafkaError as error:
                log.warning("lag_unknown", error=f"{type(error).__name__}: {error}")

    async def _commit(self) -> None:
        positions = {
            partition: mark.position
            for partition, mark in self._marks.items()
            if mark.position is not None and mark.position != self._committed.get(partition)
        }
        if positions:
            await self._consumer.commit(positions)
            self._committed.update(positions)


def _count(completed: InferenceCompleted) -> None:
    served_by = completed.served_by or "nobody"
    # An undeclared task's name is the client's own text: it must not become a label.
    reason = completed.reason or (completed.failure.code if completed.failure else "none")
    known = completed.failure is None or completed.failure.code != "unknown_task"
    task = completed.task_key if known else "unknown"
    metrics().requests.labels(task, served_by, reason, completed.status).inc()
    metrics().request_latency.labels(served_by).observe(completed.latency_ms / 1000)
