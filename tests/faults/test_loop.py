"""A student's way to its first traffic, with every service killed on it where it hurts most."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from stillhouse.bus.jobs import read_json
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


async def test_a_student_goes_live_once_though_every_service_is_killed_on_its_way(platform) -> None:
    home = platform.home
    async with Load.of(platform.settings, 11) as load, asyncio.timeout(420):
        async with load.running(12):
            await until(lambda: training(home), "a training under way", 180, every=0.01)
            await platform.kill("trainer")
            await until(lambda: judging(home), "a gate under way", 180, every=0.01)
            await platform.kill("validator")

            async def live() -> bool:
                return await live_student(platform) is not None

            await until(live, "a live student", 240, every=0.5)
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
        assert unsound_store(platform, load) == []
        assert unsound_jobs(platform) == []
        assert await unsound_events(platform) == []
        assert await unsound_tests(platform) == []
        await platform.ready()
