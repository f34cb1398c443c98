"""Real parts on free ports; or the Kafka that STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS names, emptied before each test."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from stillhouse.bus import client_options, declare_topics
from stillhouse.embedded.broker import EmbeddedBroker
from stillhouse.embedded.valkey import EmbeddedValkey
from stillhouse.events import CATALOGUE
from stillhouse.settings import Kafka, Settings


@dataclass(frozen=True, slots=True)
class NamedBroker:
    """A Kafka that somebody else runs. It is for tests: all of Stillhouse's topics and groups in it are deleted."""

    settings: Kafka

    async def empty(self) -> None:
        admin = AIOKafkaAdminClient(**client_options(self.settings))
        await admin.start()
        try:
            present = set(await admin.list_topics())
            ours = [topic.name for topic in CATALOGUE if topic.name in present]
            if ours:
                await admin.delete_topics(ours)
        finally:
            await admin.close()
        await declare_topics(self.settings)


def named_kafka() -> Kafka | None:
    """The user's Kafka, where the environment names one."""
    return Settings().kafka if os.environ.get("STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS") else None


@pytest.fixture
async def broker(free_tcp_port, tmp_path):
    """Has `settings`; the embedded broker also `pid`."""
    if (kafka := named_kafka()) is not None:
        named = NamedBroker(kafka)
        await named.empty()
        yield named
        return
    embedded = EmbeddedBroker(free_tcp_port, tmp_path / "broker.log")
    await embedded.start()
    yield embedded
    await embedded.stop()


@pytest.fixture
async def valkey(free_tcp_port_factory, tmp_path):
    embedded = EmbeddedValkey(tmp_path / "valkey", free_tcp_port_factory(), tmp_path / "valkey.log")
    await embedded.start()
    yield embedded
    await embedded.stop()
