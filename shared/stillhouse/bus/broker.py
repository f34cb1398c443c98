"""The FastStream broker that a service's handlers stand on: how records become events, and events records.

The router's intake is not built on this: it answers out of order, on aiokafka directly.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from aiokafka import ConsumerRecord
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512
from opentelemetry import trace

from stillhouse.bus.cloudevents import BadRecord, decode, encode
from stillhouse.bus.connection import consumer_options, producer_options, write_to_declared_topics_only
from stillhouse.bus.consumption import Consumption
from stillhouse.bus.handling import Handling, bury, records_of
from stillhouse.events import Event
from stillhouse.settings import Kafka, Settings
from stillhouse.telemetry.tracing import traceparent_of

E = TypeVar("E", bound=Event)


def make_broker(settings: Settings, service: str) -> KafkaBroker:
    """The broker of `service`: handlers get decoded events; what cannot be handled goes to `dlq.<service>`."""
    kafka = settings.kafka
    producer = producer_options(kafka)
    consumption = Consumption(service, kafka.poison_pause_s)
    broker = KafkaBroker(
        kafka.bootstrap_servers,
        acks=producer["acks"],
        enable_idempotence=producer["enable_idempotence"],
        max_request_size=producer["max_request_size"],
        client_id=f"stillhouse-{service}",
        security=_security(kafka),
        parser=_parse,
        decoder=_decode,
        middlewares=[Handling.of(service, consumption)],
        logger=None,  # failures are logged where they are handled; FastStream would log the payload's traceback again
    )
    broker.context.set_global("consumption", consumption)
    broker.context.set_global("kafka", kafka)
    return broker


async def connect(broker: KafkaBroker) -> None:
    """Connect the producer of a broker that `make_broker` made. Raises `KafkaError`."""
    await broker.connect()
    producer: Any = broker.config.broker_config.producer
    write_to_declared_topics_only(producer._producer.producer, broker.context.get("kafka"))


def consumption_of(broker: KafkaBroker) -> Consumption:
    """Whether the service that `broker` was made for goes on reading."""
    found = broker.context.get("consumption")
    assert isinstance(found, Consumption), "make_broker makes it"
    return found


def subscriber_options(kafka: Kafka) -> dict[str, Any]:
    """Options of every subscription; give it a group id, and AckPolicy.NACK_ON_ERROR."""
    options = consumer_options(kafka)
    kept = ("auto_offset_reset", "fetch_max_wait_ms", "session_timeout_ms", "heartbeat_interval_ms")
    return {name: options[name] for name in kept if name in options}


async def publish(broker: KafkaBroker, event: Event, *, source: str, traceparent: str | None = None) -> None:
    """Write `event` to its topic, in the current span's trace. Raises `TooLarge`, `KafkaError`."""
    parent = traceparent or traceparent_of(trace.get_current_span())
    record = encode(event, source=source, traceparent=parent)
    headers = {name: value.decode() for name, value in record.headers}
    await broker.publish(record.value, record.topic, key=record.key, headers=headers)


async def decode_batch(message: KafkaMessage, kind: type[E]) -> list[E]:
    """The events of a batch, in order; records that hold none are put aside, each with its reason."""
    events: list[E] = []
    for record in records_of(message.raw_message):
        try:
            event = decode(record.topic, record.value)
        except BadRecord as error:
            await bury(record, str(error), "bad_record")
            continue
        assert isinstance(event, kind)
        events.append(event)
    return events


async def _parse(record: Any, original: Callable[[Any], Awaitable[KafkaMessage]]) -> KafkaMessage:
    """FastStream decodes headers as UTF-8 outside of all middlewares: bytes that are not would be read for ever."""
    if isinstance(record, tuple | list):
        return await original(tuple(_readable(part) for part in record))
    return await original(_readable(record))


def _readable(record: ConsumerRecord) -> ConsumerRecord:
    try:
        for _, value in record.headers:
            value.decode()
    except (UnicodeDecodeError, AttributeError):
        headers = tuple((name, (value or b"").decode(errors="replace").encode()) for name, value in record.headers)
        return replace(record, headers=headers)
    return record


async def _decode(message: KafkaMessage) -> Any:
    """One record's event; a batch is decoded by its handler, record by record. Raises `BadRecord`."""
    if isinstance(message.raw_message, tuple | list):
        return []
    return decode(message.raw_message.topic, message.raw_message.value)


def _security(kafka: Kafka) -> BaseSecurity | None:
    use_ssl = kafka.security_protocol.endswith("SSL")
    if not kafka.security_protocol.startswith("SASL"):
        return BaseSecurity(use_ssl=True) if use_ssl else None
    kinds = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}
    password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else ""
    return kinds[kafka.sasl_mechanism](username=kafka.sasl_username or "", password=password, use_ssl=use_ssl)
