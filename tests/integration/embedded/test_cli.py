"""Reading commands and orders against a real broker, as they are typed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from functools import partial

import pytest
from aiokafka import AIOKafkaProducer
from typer.testing import CliRunner

from stillhouse.bus import encode, producer_options
from stillhouse.cli import app
from stillhouse.cli.connect import publish_command
from stillhouse.cli.reading import events_of, read_records
from stillhouse.embedded.broker import EmbeddedBroker
from stillhouse.events import (
    ArtefactRef,
    Condition,
    DriftDetected,
    GatePassed,
    RouteChanged,
    RouteRequested,
    StudentRoute,
    TrainingRequested,
)
from stillhouse.settings import Settings

STUDENT = "t-hashed_ngrams-01234567"


@pytest.fixture
async def typed(free_tcp_port, tmp_path, monkeypatch):
    """Run commands (in a thread, for each has an event loop of its own) against a broker with a short story."""
    broker = EmbeddedBroker(free_tcp_port, tmp_path / "broker.log")
    await broker.start()
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path))
    monkeypatch.setenv("STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS", broker.settings.bootstrap_servers)
    monkeypatch.setenv("STILLHOUSE_KAFKA__EMBEDDED", "true")
    monkeypatch.setenv("NO_COLOR", "1")
    story = [
        GatePassed(
            task="t",
            student_id=STUDENT,
            stage="offline",
            reason="agrees",
            n=420,
            evidence=25.0,
            estimate=0.98,
            lower=0.96,
            upper=0.99,
            threshold=0.7,
            coverage=0.8,
            conditions=[Condition(name="agreement", verdict="passed", floor=0.95, estimate=0.98, n=420)],
        ),
        RouteChanged(
            task="t",
            version=1,
            stage="live",
            live=StudentRoute(
                student_id=STUDENT,
                architecture="hashed_ngrams",
                artefact=ArtefactRef(uri="file:///a", sha256="0" * 64, size=5),
                threshold=0.7,
                since="2026-01-01T00:00:00Z",
            ),
            reason="canary passed",
            changed_by="gate.passed",
            cause_id="c",
        ),
        DriftDetected(
            task="t", student_id=STUDENT, statistic=12.0, alarm_level=11.5, audits=300, estimate=0.8, lower=0.7,
            upper=0.87, window=100,
        ),
        DriftDetected(
            task="other", student_id="o", statistic=12.0, alarm_level=11.5, audits=3, estimate=0.8, lower=0.7,
            upper=0.87, window=100,
        ),
    ]  # fmt: skip
    producer = AIOKafkaProducer(**producer_options(broker.settings))
    await producer.start()
    for event in story:
        record = encode(event, source="/test")
        await producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)
    poison = [("traceparent", b"00-1"), ("dlq_reason", b"not JSON"), ("dlq_origin", b"route.requested/0/3")]
    await producer.send_and_wait("dlq.router", b"{", key=b"default/t", headers=poison)
    await producer.stop()
    runner = CliRunner()

    async def run(*arguments: str):
        return await asyncio.to_thread(runner.invoke, app, list(arguments))

    run.kafka = broker.settings
    yield run
    await broker.stop()


async def test_what_people_and_programs_read(typed) -> None:
    routes = json.loads((await typed("routes", "--json")).stdout)
    assert [(route["task"], route["stage"], route["version"]) for route in routes] == [("t", "live", 1)]
    shown = (await typed("routes")).stdout
    assert f"default/t  live   {STUDENT}" in shown
    assert "\x1b[" not in shown

    (student,) = json.loads((await typed("students", "--json")).stdout)
    assert (student["student_id"], student["state"], student["verdicts"]) == (STUDENT, "live", {"offline": "passed"})
    assert "No student was trained yet." in (await typed("students", "--task", "nobody")).stdout

    gate = await typed("gate", "t-hashed")
    assert gate.exit_code == 0, gate.stderr
    assert "offline  passed on 420 cases" in gate.stdout
    assert "agreement 98.0 % (96.0 % to 99.0 %), threshold 0.700, would serve 80.0 %" in gate.stdout
    assert json.loads((await typed("gate", STUDENT, "--json")).stdout)["gates"][0]["conditions"][0]["n"] == 420
    missing = await typed("gate", "nobody")
    assert (missing.exit_code, missing.stderr.count("\n")) == (1, 1)

    lines = (await typed("alerts", "--task", "t", "--json")).stdout.splitlines()
    assert [(json.loads(line)["type"], json.loads(line)["audits"]) for line in lines] == [("drift.detected", 300)]
    assert "agrees on 80.0 % of the last 100 audits" in (await typed("alerts")).stdout


async def test_orders_reach_their_topics(typed) -> None:
    assert (await typed("train", "--task", "t", "--architecture", "cut_encoder")).exit_code == 0
    for action in ("teacher", "pin", "unpin"):
        assert (await typed("route", action, "--task", "t", "--reason", "night shift")).exit_code == 0
    (asked,) = events_of(await read_records(typed.kafka, [TrainingRequested.TYPE]))
    assert isinstance(asked, TrainingRequested)
    assert asked.architecture == "cut_encoder"
    ordered = events_of(await read_records(typed.kafka, [RouteRequested.TYPE]))
    assert [(one.action, one.reason) for one in ordered] == [
        ("teacher", "night shift"),
        ("pin_teacher", "night shift"),
        ("unpin", "night shift"),
    ]
    bad = await typed("train", "--task", "Not A Name")
    assert (bad.exit_code, bad.stderr.startswith("task: String should match pattern")) == (1, True)


async def test_dead_letters_are_listed_without_their_contents_and_replayed_as_they_were(typed) -> None:
    (letter,) = json.loads((await typed("dlq", "list", "--json")).stdout)
    assert letter.pop("time")
    assert letter == {
        "letter": "router/0",
        "origin": "route.requested/0/3",
        "reason": "not JSON",
        "key": "default/t",
        "bytes": 1,
    }
    assert (await typed("dlq", "replay", "router/9")).exit_code == 1
    assert (await typed("dlq", "replay")).exit_code == 1
    assert "1 replayed" in (await typed("dlq", "replay", "router/0")).stdout
    (again,) = await read_records(typed.kafka, ["route.requested"])
    assert (again.value, again.key, again.headers) == (b"{", b"default/t", (("traceparent", b"00-1"),))


async def test_reading_ends_at_the_current_end_in_the_order_of_events_own_time(typed) -> None:
    records = await read_records(typed.kafka, ["gate.passed", "route.changed", "drift.detected", "no.such.topic"])
    assert sorted(record.topic for record in records) == [
        "drift.detected",
        "drift.detected",
        "gate.passed",
        "route.changed",
    ]
    times = [record.time_ms for record in records]
    assert times == sorted(times)
    stories = [event.TYPE for event in events_of(records)]
    assert stories == ["gate.passed", "route.changed", "drift.detected", "drift.detected"]
    assert await read_records(typed.kafka, ["student.trained"]) == []
    assert await read_records(typed.kafka, ["no.such.topic"]) == []


async def test_the_asyncapi_document_is_printed(typed) -> None:
    document = json.loads((await typed("docs")).stdout)
    assert document["asyncapi"].startswith("3.")


async def test_alerts_are_followed_until_ctrl_c(typed) -> None:
    code = "import sys; sys.argv[0] = 'stillhouse'; from stillhouse.cli import main; main()"
    arguments = ["-c", code, "alerts", "--follow", "--json", "--task", "t"]
    follower = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        # A shell lets its background jobs ignore SIGINT, and so do their children: this one is to heed it.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        async with asyncio.timeout(60):
            assert json.loads(await follower.stdout.readline())["audits"] == 300
            later = DriftDetected(
                task="t", student_id=STUDENT, statistic=13.0, alarm_level=11.5, audits=999, estimate=0.5, lower=0.4,
                upper=0.6, window=100,
            )  # fmt: skip
            await publish_command(Settings(), later)
            assert json.loads(await follower.stdout.readline())["audits"] == 999
            follower.send_signal(signal.SIGINT)
            assert await follower.wait() == 130
    finally:
        if follower.returncode is None:
            follower.kill()
            await follower.wait()
