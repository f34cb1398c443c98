"""How every part connects to the log, and how its topics are declared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any
from weakref import WeakSet

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    NodeNotReadyError,
    RequestTimedOutError,
    TopicAlreadyExistsError,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest

from stillhouse.events import CATALOGUE, MAX_RECORD_BYTES, Topic
from stillhouse.settings import Kafka


def client_options(kafka: Kafka) -> dict[str, Any]:
    """What every aiokafka client takes: address and credentials."""
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": kafka.sasl_password.get_secret_value() if kafka.sasl_password else None,
        }
    return options


def consumer_options(kafka: Kafka, *, urgent: bool = False) -> dict[str, Any]:
    """Consumers commit by hand, and start at the beginning where their group has no offset.

    The embedded broker does not wake waiting fetches, so that a long wait is pure latency; but some twenty consumers
    polling 50 times a second would keep it busy with nothing. `urgent` consumers, for whose records a client waits, do.
    """
    options = client_options(kafka) | {"enable_auto_commit": False, "auto_offset_reset": "earliest"}
    if kafka.embedded:
        wait = 20 if urgent else 250
        options |= {"fetch_max_wait_ms": wait, "session_timeout_ms": 6000, "heartbeat_interval_ms": 1000}
    return options


def producer_options(kafka: Kafka) -> dict[str, Any]:
    """Producers wait for all replicas; idempotence wherever the broker has it (the embedded one has not)."""
    return client_options(kafka) | {
        "acks": "all",
        "enable_idempotence": not kafka.embedded,
        "max_request_size": MAX_RECORD_BYTES + 4096,
    }


def commit_as_member_only(consumer: AIOKafkaConsumer) -> None:
    """Refuse commits of a started consumer while its group does not know it. Such a commit raises `CommitFailedError`.

    A group forgets a member that was silent for too long, and an embedded broker forgets all groups when it is
    restarted. aiokafka then sends commits without a generation until it has joined again, and an empty group takes
    those from anybody: positions of a log that is gone would hide the beginning of the new one.
    """
    coordinator = consumer._coordinator
    commit = coordinator._do_commit_offsets

    async def as_member(assignment: Any, offsets: Any) -> None:
        if coordinator.generation < 0:
            raise UnknownMemberIdError(coordinator.group_id)
        await commit(assignment, offsets)  # makes its request, with the generation in it, before anything else runs

    coordinator._do_commit_offsets = as_member


def write_to_declared_topics_only(producer: AIOKafkaProducer, kafka: Kafka) -> None:
    """Have a producer hold back its records from an embedded broker's new log until the topics are there.

    A producer knows the topics from the log before, and would send what it holds as soon as it is connected again: to
    topics that are about to be cleared. It asks once for each connection; meanwhile the broker is not ready for it.
    """
    if not kafka.embedded:
        return
    client = producer.client
    send, asked = client.send, WeakSet[Any]()

    async def send_if_declared(node_id: Any, request: Any, **options: Any) -> Any:
        connection = await client._get_conn(node_id, **options) if isinstance(request, ProduceRequest) else None
        if connection is not None and connection not in asked:
            try:
                told = await connection.send(MetadataRequest(None))
            except TimeoutError:
                raise RequestTimedOutError from None
            if _undeclared(told.to_object()["topics"]):
                raise NodeNotReadyError("its topics are not declared yet")
            asked.add(connection)
        return await send(node_id, request, **options)

    client.send = send_if_declared


async def declare_topics(kafka: Kafka) -> None:
    """Create every topic of the catalogue that is missing. Safe to repeat."""
    admin = AIOKafkaAdminClient(**client_options(kafka))
    await admin.start()
    try:
        present = set(await admin.list_topics())
        missing = [_new(topic, kafka) for topic in CATALOGUE if topic.name not in present]
        if not missing:
            return
        reply = await admin.create_topics(missing)
        for name, code, *_ in reply.topic_errors:
            error = for_code(code)
            # Another process may have declared it between the listing and here.
            if code and error is not TopicAlreadyExistsError:
                raise error(f"topic {name!r} could not be declared")
    finally:
        await admin.close()


async def declare_anew(kafka: Kafka) -> None:
    """Create every topic in the new log of an embedded broker, and clear away what clients did to it before.

    Who asks such a broker for a topic that is not there gets one of 4 partitions. Who writes to one that is not there
    may (`write_to_declared_topics_only` keeps ours from it): the records stay when it is declared, but offsets begin at
    0 again, and later records hide behind those. So every topic is made to exist, deleted with all that is in it, and
    made again. By its partitions others know that it was (`undeclared`): the widest topics come last, and have them
    only then.
    """
    admin = AIOKafkaAdminClient(**client_options(kafka))
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic.name, 1, kafka.replication_factor) for topic in CATALOGUE])
        wrong = sorted(CATALOGUE, key=lambda topic: topic.partitions)
        while wrong:
            # All sent at once: next to nobody gets in between a topic's end and its beginning.
            steps: list[Awaitable[object]] = []
            for topic in wrong:
                steps += [admin.delete_topics([topic.name]), admin.create_topics([_new(topic, kafka)])]
            await asyncio.gather(*steps)
            wrong = await undeclared(admin)
    finally:
        await admin.close()


async def undeclared(admin: AIOKafkaAdminClient) -> list[Topic]:
    """The topics of the catalogue that are not there as they should be, the widest last. Raises `KafkaError`."""
    return _undeclared(await admin.describe_topics())


def _undeclared(told: list[Any]) -> list[Topic]:
    found = {topic["topic"]: len(topic["partitions"]) for topic in told}
    wrong = [topic for topic in CATALOGUE if found.get(topic.name) != topic.partitions]
    return sorted(wrong, key=lambda topic: topic.partitions)


def _new(topic: Topic, kafka: Kafka) -> NewTopic:
    configuration = {"cleanup.policy": topic.cleanup, "retention.ms": str(topic.retention_ms)}
    return NewTopic(topic.name, topic.partitions, kafka.replication_factor, topic_configs=configuration)
