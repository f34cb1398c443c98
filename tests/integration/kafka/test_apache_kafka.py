"""What only Apache Kafka has: needs STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS, which must name one that is for tests."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from services.router.app import build_app
from services.router.settings import RouterSettings
from stillhouse.bus import client_options, consumer_options, producer_options
from stillhouse.bus.service import running
from stillhouse.client import Client
from stillhouse.events import CATALOGUE, InferenceCompleted
from stillhouse.settings import Redis
from tests.integration.conftest import named_kafka
from tests.integration.router.test_round_trip import TASK_FILE, FakeTeacher

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(
        named_kafka() is None, reason="STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS names no Apache Kafka to test with"
    ),
]


async def test_topics_have_the_partitions_cleanup_and_retention_of_the_catalogue(broker) -> None:
    admin = AIOKafkaAdminClient(**client_options(broker.settings))
    await admin.start()
    try:
        described = {topic["topic"]: topic for topic in await admin.describe_topics([t.name for t in CATALOGUE])}
        for topic in CATALOGUE:
            assert len(described[topic.name]["partitions"]) == topic.partitions
            [reply] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name)])
            config = {entry[0]: entry[1] for entry in reply.resources[0][4]}
            assert config["cleanup.policy"] == topic.cleanup
            assert config["retention.ms"] == str(topic.retention_ms)
    finally:
        await admin.close()


async def test_producers_are_idempotent(broker) -> None:
    options = producer_options(broker.settings)
    assert options["enable_idempotence"]
    async with AIOKafkaProducer(**options) as producer, asyncio.timeout(30):
        await producer.send_and_wait("dlq.router", b"x", key=b"k")


async def test_two_routers_share_the_partitions_and_a_rebalance_loses_and_repeats_nothing(
    broker, valkey, tmp_path
) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "greet.toml").write_text(TASK_FILE)
    (tmp_path / "tasks" / "seed.jsonl").write_text("")
    settings = RouterSettings(
        kafka=broker.settings, redis=Redis(url=valkey.url), home=tmp_path / "home", tasks=tmp_path / "tasks"
    )
    first, second = FakeTeacher(), FakeTeacher()
    async with Client(settings) as client, running(build_app(settings, {"default/greet": first})):
        await client.request(task="greet", input="hello", timeout=60)
        async with running(build_app(settings, {"default/greet": second})):
            async with asyncio.timeout(120):
                asked = 1
                while not second.calls:
                    await asyncio.gather(*(client.request(task="greet", input=f"hello {n}") for n in range(50)))
                    asked += 50
        await asyncio.gather(*(client.request(task="greet", input=f"hello {n}") for n in range(50)))
        asked += 50
    assert len(first.calls) + len(second.calls) == asked
    completed = Counter()
    async with AIOKafkaConsumer(InferenceCompleted.TYPE, **consumer_options(broker.settings)) as consumer:
        while batch := await consumer.getmany(timeout_ms=3000):
            completed.update(record.key for records in batch.values() for record in records)
    assert len(completed) == asked
    assert set(completed.values()) == {1}
