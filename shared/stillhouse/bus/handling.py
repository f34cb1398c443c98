"""What surrounds every handler: its trace, bounded retries, and dead letters.

A record that is wrong in itself is put aside at once. An error of the handler is tried again a few times, then put
aside. Something that the handler needs and that is away (Redis, Kafka, the disk) is no fault of the record: it is tried
until it is back, and meanwhile consumption stands still. It stops, too, where most records fail (see `consumption`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka.errors import KafkaError
from faststream import BaseMiddleware
from faststream.kafka import KafkaBroker
from opentelemetry import trace
from pydantic import ValidationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from structlog.contextvars import bound_contextvars

from stillhouse.bus.cloudevents import BadRecord, header
from stillhouse.bus.consumption import Consumption
from stillhouse.telemetry import names
from stillhouse.telemetry.metrics import metrics
from stillhouse.telemetry.tracing import span_context_of

TRIES: Final = 5
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
AWAY: Final = (KafkaError, RedisConnectionError, RedisTimeoutError, OSError)

log = structlog.get_logger()


@dataclass(slots=True)
class _Message:
    """The message being handled: whose, and how many of its records were put aside."""

    service: str
    broker: KafkaBroker
    buried: int = 0


_message: ContextVar[_Message] = ContextVar("_message")


class Unprocessable(Exception):
    """The event is well-formed, and this service can never do anything with it; the message says why."""


class Handling(BaseMiddleware):
    """The middleware of every service's broker."""

    service: str = ""
    consumption: Consumption

    @classmethod
    def of(cls, service: str, consumption: Consumption) -> Callable[..., Handling]:
        """The middleware that names `service` in dead letters and metrics, and reads on as `consumption` allows."""
        members = {"service": service, "consumption": consumption}
        return type(f"Handling_{service.replace('-', '_')}", (cls,), members)

    async def consume_scope(self, call_next: Callable[[Any], Any], msg: Any) -> Any:
        """Run the handler in the record's trace; return normally once the record is done with, one way or another."""
        batch = records_of(msg.raw_message)
        single = batch[0] if len(batch) == 1 else None
        topic = batch[0].topic
        await self.consumption.allowed(topic)
        message = _Message(self.service, self.context.resolve("broker"))
        _message.set(message)
        parent = span_context_of(header(single.headers, "traceparent")) if single is not None else None
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent)) if parent else None
        tracer = trace.get_tracer("stillhouse.bus")
        with tracer.start_as_current_span(names.SPAN_HANDLE, context=context) as span:
            span.set_attribute(names.ATTR_SERVICE, self.service)
            span.set_attribute(names.ATTR_TOPIC, topic)
            with bound_contextvars(**_named(batch)):
                result = await self._try(call_next, msg, batch)
        self.consumption.count(topic, len(batch) - message.buried, message.buried)
        return result

    async def _try(self, call_next: Callable[[Any], Any], msg: Any, batch: tuple[Any, ...]) -> Any:
        topic, pause, failures = batch[0].topic, FIRST_PAUSE_S, 0
        while True:
            try:
                return await call_next(msg)
            except (BadRecord, Unprocessable, ValidationError) as error:
                return await _bury_all(batch, error, "bad_record")
            except AWAY as error:
                log.warning("waiting", error=f"{type(error).__name__}: {error}", next_try_s=pause)
            except Exception as error:
                failures += 1
                log.exception("handler_failed", offset=batch[0].offset, attempt=failures)
                if failures >= TRIES:
                    return await _bury_all(batch, error, "handler_failed")
            metrics().handler_retries.labels(self.service, topic).inc()
            await self.consumption.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def records_of(raw: Any) -> tuple[Any, ...]:
    """The raw records of a message, of which a batch has several."""
    return tuple(raw) if isinstance(raw, tuple | list) else (raw,)


def _named(batch: tuple[Any, ...]) -> dict[str, str]:
    """What every line of the log says about the record that is handled; of a batch, only its topic."""
    found = {"topic": batch[0].topic}
    if len(batch) == 1:
        for field, name in (("event_id", "ce_id"), ("subject", "ce_subject")):
            value = header(batch[0].headers, name)
            if value:
                found[field] = value
    return found


async def _bury_all(batch: tuple[Any, ...], error: Exception, kind: str) -> None:
    for record in batch:
        await bury(record, _sentence(error), kind)


async def bury(record: Any, reason: str, kind: str) -> None:
    """Put one raw record into the dead letters of the service whose handler runs, with why and whence."""
    message = _message.get()
    service, broker = message.service, message.broker
    metrics().dead_letters.labels(service, record.topic, kind).inc()
    log.warning("dead_letter", topic=record.topic, partition=record.partition, offset=record.offset, reason=reason)
    kept = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    origin = f"{record.topic}/{record.partition}/{record.offset}"
    await broker.publish(
        record.value or b"",
        f"dlq.{service}",
        key=record.key,
        headers=kept | {"dlq_reason": reason, "dlq_origin": origin},
    )
    message.buried += 1


def _sentence(error: Exception) -> str:
    """One line without any input: a validation error would quote it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(str(part) for part in first['loc']) or 'the value'}: {first['msg']}"
    text = str(error).strip().splitlines()
    if text and isinstance(error, BadRecord | Unprocessable):
        return text[0]
    return f"{type(error).__name__}: {text[0][:500]}" if text else type(error).__name__
