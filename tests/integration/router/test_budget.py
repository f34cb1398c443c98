"""A task with a limit on real parts: what waits in the log comes back when there is money, and is answered once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import AIOKafkaConsumer

from services.router import spending
from services.router.settings import RouterSettings
from stillhouse.bus import consumer_options, decode
from stillhouse.client import Client, RequestFailed
from stillhouse.events import InferenceCompleted, InferenceParked, InferenceRequested
from stillhouse.settings import Redis
from stillhouse.store import LedgerRow, Store
from tests.integration.router.test_round_trip import TASK_FILE, FakeTeacher, router

BUDGET = '\n[budget]\nusd_per_day = 0.01\nkept_for_audits = 0.0\nat_limit = "{at_limit}"\n'


@pytest.fixture
def settings_of(broker, valkey, tmp_path):
    def made(at_limit: str) -> RouterSettings:
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks" / "greet.toml").write_text(TASK_FILE + BUDGET.format(at_limit=at_limit))
        (tmp_path / "tasks" / "seed.jsonl").write_text("")
        return RouterSettings(
            kafka=broker.settings, redis=Redis(url=valkey.url), home=tmp_path / "home", tasks=tmp_path / "tasks"
        )

    return made


async def test_a_limit_holds_over_a_restart_and_the_refusal_says_what_is_the_matter(settings_of) -> None:
    settings = settings_of("reject")
    # What the ledger knows counts, though Redis knows nothing yet.
    row = LedgerRow("e", datetime.now(UTC), "default", "greet", "request", "r", 0.004)
    Store(settings.home / "store").append_ledger([row])
    teachers = [FakeTeacher(), FakeTeacher()]
    async with Client(settings) as client:
        for teacher in teachers:
            async with router(settings, teacher):
                for _ in range(2 if teacher is teachers[0] else 1):
                    await client.request(task="greet", input="hello", timeout=30)
        async with router(settings, FakeTeacher()):
            with pytest.raises(RequestFailed, match=r"budget: the budget of default/greet \(0.01 USD a day\) is spent"):
                await client.request(task="greet", input="hello", timeout=30)
    assert [len(teacher.calls) for teacher in teachers] == [2, 1]


async def test_what_waits_is_answered_once_when_the_day_turns(settings_of, monkeypatch) -> None:
    settings = settings_of("queue")
    days = [0]

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=days[0])

    monkeypatch.setattr(spending, "datetime", Later)
    monkeypatch.setattr("stillhouse.bus.spending.datetime", Later)
    teacher = FakeTeacher()
    requests = [InferenceRequested(task="greet", input=f"hello {n}") for n in range(9)]
    consumer = AIOKafkaConsumer(
        InferenceParked.TYPE, InferenceCompleted.TYPE, group_id=None, **consumer_options(settings.kafka)
    )
    async with router(settings, teacher), Client(settings) as client, consumer, asyncio.timeout(90):
        answers = [await client.submit(request) for request in requests]
        seen = []
        while sum(isinstance(event, InferenceCompleted) for event in seen) < 5 or len(seen) < 9:
            record = await consumer.getone()
            seen.append(decode(record.topic, record.value))
        waiting = [event for event in seen if isinstance(event, InferenceParked)]
        assert len(waiting) == 4
        assert all(event.until is not None for event in waiting)
        assert len(teacher.calls) == 5
        days[0] = 1
        said = await asyncio.gather(*answers)
    assert {completed.output for completed in said} == {"hello"}
    assert sorted(teacher.calls) == sorted(request.input for request in requests)
