"""A student's way to its first traffic, with every service killed on it where it hurts most."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from stillhouse.bus import encode, producer_options
from stillhouse.bus.jobs import read_json
from stillhouse.events import InferenceAudited
from tests.faults.load import Load
from tests.faults.outside import (
    FAST,
    live_student,
    read,
    recorded,
    unsound_events,
    unsound_jobs,
    unsound_store,
    unsound_tests,
)
from tests.faults.platform import Platform, copy_models, until
from tests.faults.world import write_tasks

pytestmark = pytest.mark.slow


@pytest.fixture
async def platform(fitted, tmp_path):
    started = Platform(tmp_path, write_tasks(tmp_path / "tasks", epochs=400))
    copy_models(fitted, started.home)
    try:
        await started.start()
        yield started
    finally:
        await started.stop()


def training(home: Path) -> bool:
    """Whether a training job is in the middle of its epochs."""
    said = [read_json(path) or {} for path in (home / "jobs").glob("*/progress.json")]
    return any(one.get("phase") == "training" for one in said)


def judging(home: Path) -> bool:
    """Whether a gate has a look under way."""
    rounds = (home / "jobs").glob("*/rounds/*")
    return any(not (folder / "result.json").exists() for folder in rounds)


def replaying(home: Path) -> bool:
    """Whether the shadow stage has all its requests, and what the student said is compared."""
    return any((read_json(path) or {}).get("kind") == "shadow" for path in (home / "jobs").glob("*/job.json"))


async def test_a_student_goes_live_once_though_every_service_is_killed_on_its_way(platform) -> None:
    home = platform.home
    async with Load.of(platform.settings, 11, again=True) as load, asyncio.timeout(1800):
        async with load.running(12):
            await until(lambda: training(home), "a training under way", 300, every=0.01)
            await platform.kill("trainer")
            await until(lambda: judging(home), "a gate under way", 300, every=0.01)
            await platform.kill("validator")
            await until(lambda: replaying(home), "the end of the shadow stage", 300, every=0.01)
            await a_verdict_goes_with_the_log(platform, load)

            async def live() -> bool:
                return await live_student(platform) is not None

            await until(live, "a live student", 300, every=0.5)
            student = await live_student(platform)

            async def audited() -> int:
                def count() -> int:
                    rows = platform.store.audits(FAST, student).to_pylist()
                    return sum(row["stage"] == "live" for row in rows)

                return await asyncio.to_thread(count)

            async def first_audits() -> bool:
                return await audited() >= 10

            await until(first_audits, "live audits", every=0.5)
            await platform.kill("drift-monitor")
            await platform.kill("observer")
            await platform.kill("router")
            before = len(load.answered())
            await until(lambda: len(load.answered()) > before + 80, "the loop goes on")
        await load.settled()
        assert len(load.answered()) == len(load.sent)
        await recorded(platform, load)

        trained = await read(platform.settings.kafka, "student.trained")
        assert {event.student_id for event in trained} == {student}  # type: ignore[attr-defined]
        said = await read(platform.settings.kafka, "inference.audited")
        live_audits = {e.id for e in said if e.stage == "live" and e.student_id == student}  # type: ignore[attr-defined]

        async def all_stored() -> bool:
            return await audited() == len(live_audits)

        async def all_counted() -> bool:
            async with platform.redis() as redis:
                state = json.loads(await redis.get(f"stillhouse:drift:{{{FAST}}}:{student}"))
            return state["detector"]["n"] == len(live_audits)

        await until(all_stored, f"{len(live_audits)} audits in the store", every=0.5)
        await until(all_counted, f"{len(live_audits)} audits in the drift test")
        assert await unsound_tests(platform) == []
        assert await unsound_jobs(platform) == []

        await an_alarm_is_said_once(platform, next(e for e in said if e.id in live_audits))  # type: ignore[arg-type]
        await load.send(20)
        await load.settled()
        assert len(load.answered()) == len(load.sent)
        await recorded(platform, load)
        assert await unsound_store(platform, load) == []
        assert await unsound_jobs(platform) == []
        assert await unsound_events(platform) == []
        await platform.ready()


async def a_verdict_goes_with_the_log(platform: Platform, load: Load) -> None:
    """The shadow gate passes while the router hears nothing, and the broker dies before it does."""
    router = platform.members["router"].pid
    assert router is not None
    os.kill(router, signal.SIGSTOP)

    async def passed() -> bool:
        return any(e.stage == "shadow" for e in await read(platform.settings.kafka, "gate.passed"))  # type: ignore[attr-defined]

    await until(passed, "the shadow verdict", every=0.5)
    await recorded(platform, load)  # else an answer may go with the log, too
    await platform.restart_broker()
    os.kill(router, signal.SIGCONT)


async def an_alarm_is_said_once(platform: Platform, like: InferenceAudited) -> None:
    """Audits that the student lost, and a drift monitor that is killed among them and at its alarm."""
    kafka = platform.settings.kafka
    lost = [
        like.model_copy(
            update={
                "id": f"lost-{number}",
                "request_id": f"lost-{number}",
                "time": datetime.now(UTC),
                "would_serve": True,
                "agrees": False,
            }
        )
        for number in range(100)
    ]

    async def say(audits: list[InferenceAudited]) -> None:
        async with AIOKafkaProducer(**producer_options(kafka)) as producer:
            for record in (encode(audit, source="/tests/faults") for audit in audits):
                await producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)

    await say(lost[:5])
    await platform.kill("drift-monitor")
    await say(lost[5:])

    async def alarmed() -> bool:
        return bool(await read(kafka, "drift.detected"))

    async def taken_out() -> bool:
        return await live_student(platform) is None

    await until(alarmed, "an alarm")
    await platform.kill("drift-monitor")
    await until(taken_out, "the student is out", every=0.5)
    await platform.ready("drift-monitor")
    await say(lost)
    [alarm] = {(e.id, e.student_id) for e in await read(kafka, "drift.detected")}  # type: ignore[attr-defined]
    assert alarm[1] == like.student_id
    routes = await read(kafka, "route.changed")
    assert len({e.id for e in routes if e.changed_by == "drift.detected"}) == 1  # type: ignore[attr-defined]
