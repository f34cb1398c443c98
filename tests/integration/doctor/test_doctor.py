"""The doctor against a real broker and a real Valkey."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from typer.testing import CliRunner

from stillhouse.bus import client_options, consumer_options, encode, producer_options
from stillhouse.cli import app
from stillhouse.events import CATALOGUE, ArtefactRef, RouteChanged, StudentRoute

ROOT = Path(__file__).parents[3]


@pytest.fixture
def doctor(broker, valkey, tmp_path, monkeypatch):
    """Runs the command; gives its exit code and its findings by (part, what)."""
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STILLHOUSE_TASKS", str(ROOT / "deploy" / "tasks"))
    monkeypatch.setenv("STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS", broker.settings.bootstrap_servers)
    monkeypatch.setenv("STILLHOUSE_KAFKA__EMBEDDED", "true")
    monkeypatch.setenv("STILLHOUSE_REDIS__URL", valkey.url)

    async def run():
        done = await asyncio.to_thread(CliRunner().invoke, app, ["doctor", "--json"])
        told = json.loads(done.stdout)
        return done.exit_code, {(one["part"], one["what"]): one for one in told["findings"]}

    run.kafka = broker.settings
    return run


async def write(kafka, event, time_ms: int | None = None) -> None:
    record = encode(event, source="/test")
    async with AIOKafkaProducer(**producer_options(kafka)) as producer:
        await producer.send_and_wait(
            record.topic, record.value, key=record.key, headers=record.headers, timestamp_ms=time_ms
        )


def route(folder: Path) -> RouteChanged:
    artefact = ArtefactRef(uri=folder.as_uri(), sha256="0" * 64, size=1)
    live = StudentRoute(
        student_id="s1", architecture="hashed_ngrams", artefact=artefact, threshold=0.8, since=datetime.now(UTC)
    )
    return RouteChanged(task="t", version=1, stage="live", live=live, reason="r", changed_by="x", cause_id="c")


async def test_a_platform_that_nobody_uses_is_well(doctor) -> None:
    code, found = await doctor()
    assert {key: one["said"] for key, one in found.items() if one["state"] == "wrong"} == {}
    assert code == 0
    assert found["topics", "declared"]["said"] == f"all {len(CATALOGUE)}"
    assert found["clocks", "records"]["said"] == "no record to compare with"
    assert found["lag", "router"]["said"] == "has read nothing yet"
    assert found["broker", doctor.kafka.bootstrap_servers]["said"].startswith("1 broker of cluster stillhouse-")


async def test_each_thing_that_is_wrong_is_named_with_what_to_do(doctor, tmp_path) -> None:
    kafka = doctor.kafka
    await write(kafka, route(tmp_path / "gone"), int(1000 * (time.time() + 3600)))
    for _ in range(2):
        await write(kafka, route(tmp_path / "gone"))
    reader = AIOKafkaConsumer(group_id="router.routes", **consumer_options(kafka))
    reader.subscribe([RouteChanged.TYPE])
    await reader.start()
    admin = AIOKafkaAdminClient(**client_options(kafka))
    await admin.start()
    try:
        await reader.getone()
        await reader.commit({TopicPartition(RouteChanged.TYPE, 0): 1})
        await admin.delete_topics(["dlq.observer"])
        code, found = await doctor()
    finally:
        await reader.stop()
        await admin.close()
    assert code == 1
    missing = found["topics", "declared"]
    assert missing["said"] == f"1 of {len(CATALOGUE)} are missing: dlq.observer"
    assert "stillhouse topics declare" in missing["mend"]
    assert found["lag", "router.routes"]["said"] == "2 records behind"
    assert found["models", "s1 (live)"]["state"] == "wrong"
    assert "stillhouse route teacher --task t" in found["models", "s1 (live)"]["mend"]

    declared = await asyncio.to_thread(CliRunner().invoke, app, ["topics", "declare"])
    assert declared.exit_code == 0, declared.stderr
    assert f"{len(CATALOGUE)} topics are declared" in declared.stdout
    _, found = await doctor()
    assert found["topics", "declared"]["state"] == "ok"


async def test_a_record_from_the_future_shows_that_clocks_differ(doctor, tmp_path) -> None:
    await write(doctor.kafka, route(tmp_path), int(1000 * (time.time() + 3600)))
    code, found = await doctor()
    assert code == 1
    assert found["clocks", RouteChanged.TYPE]["said"].startswith("its newest record is 3")
    assert "Synchronise" in found["clocks", RouteChanged.TYPE]["mend"]
