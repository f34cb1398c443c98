"""What a task with a limit is answered: within it, at it, beyond it, and while nobody can tell."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisAway

from services.router.answering import Answering
from services.router.parked import parked, unparked
from services.router.spending import Spending
from stillhouse.bus.metering import Meter
from stillhouse.bus.spending import Call, Refused, Standing
from stillhouse.economics.limits import PERIODS
from stillhouse.events import ArtefactRef, InferenceRequested, RouteChanged, StudentRoute
from stillhouse.models.port import ModelError, Prediction
from stillhouse.tasks import Task

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class FakeAccounts:
    """As `Accounts`, of one day and one task, in memory."""

    def __init__(self) -> None:
        self.spent = 0.0
        self.held: dict[str, float] = {}
        self.settled: dict[str, float] = {}
        self.away = False
        self.asked = 0

    async def reserve(self, calls: list[Call]) -> list[Refused | None]:
        self.asked += 1
        if self.away:
            raise RedisAway("away")
        return [self._reserve(call) for call in calls]

    def _reserve(self, call: Call) -> Refused | None:
        limit = call.limits.nanos("day", audit=call.audit)
        assert limit is not None
        if (self.spent + sum(self.held.values()) + call.usd) * 1e9 > limit + 0.5:
            return Refused("day", self.spent)
        self.held[call.token] = call.usd
        return None

    async def settle(self, calls: list[Call], usd: list[float]) -> None:
        if self.away:
            raise RedisAway("away")
        for call, cost in zip(calls, usd, strict=True):
            if call.token not in self.settled:
                self.held.pop(call.token, None)
                self.settled[call.token] = cost
                self.spent += cost

    async def look(self, task_key: str, lease_s: float) -> Standing:
        return Standing(dict.fromkeys(PERIODS, self.spent), dict.fromkeys(PERIODS, sum(self.held.values())))


class Says:
    """A model that answers the same to everything, for `usd`; or fails with `error`."""

    def __init__(self, output: str, usd: float = 0.0, confidence: float = 0.9, error: Exception | None = None) -> None:
        self.version = output
        self._answer = Prediction(output, confidence, cost_usd=usd)
        self.error = error
        self.calls = 0
        self.waits: asyncio.Event | None = None
        self.called = asyncio.Event()

    async def predict(self, batch):
        self.calls += 1
        self.called.set()
        if self.waits is not None:
            await self.waits.wait()
        if self.error is not None:
            raise self.error
        return [self._answer] * len(batch)


def make_task(**budget) -> Task:
    fields = {
        "name": "t",
        "labels": ("a", "b"),
        "teacher": {"seed": Path("seed.jsonl"), "usd_per_call": 1.0, "timeout_s": 0.2},
        "students": ({"architecture": "hashed_ngrams"},),
        "audit": {"pi": 1.0},
        "budget": {"usd_per_day": 5.0, "kept_for_audits": 0.0} | budget,
    }
    return Task.model_validate(fields)


def live() -> RouteChanged:
    artefact = ArtefactRef(uri="file:///s", sha256="s" * 64, size=1)
    student = StudentRoute(student_id="s", architecture="hashed_ngrams", artefact=artefact, threshold=0.8, since=NOW)
    return RouteChanged(
        task="t", version=1, stage="live", live=student, reason="r", changed_by="x", cause_id="c", time=NOW
    )


class World:
    """An answering with one task; `self.now` is its clock."""

    def __init__(self, task: Task, route: RouteChanged | None = None, confidence: float = 0.9) -> None:
        self.now = NOW
        self.task, self.accounts = task, FakeAccounts()
        self.teacher, self.student = Says("a", usd=1.0), Says("b", usd=1e-6, confidence=confidence)
        self.spending = Spending({task.key: task}, self.accounts, lambda: self.now)
        meter = Meter("routing", {task.key: task})
        self.answering = Answering(
            {task.key: task}, {task.key: self.teacher}, lambda _: route, lambda _: self.student, self.spending, meter
        )

    async def ask(self, number: int, **changes):
        answered = await self.answering.answer(InferenceRequested(id=f"r{number}", task="t", input="x", **changes))
        audits = await answered.audits()
        return answered, audits

    async def codes(self, *numbers: int) -> list[str]:
        said = [(await self.ask(n))[0].completed for n in numbers]
        return [c.failure.code if c.failure else str(c.served_by) for c in said]


async def test_the_teacher_is_called_as_long_as_there_is_money_and_the_refusal_says_until_when() -> None:
    world = World(make_task())
    assert await world.codes(*range(8)) == ["teacher"] * 5 + ["budget"] * 3
    assert world.teacher.calls == 5
    assert world.accounts.spent == 5.0
    (answered, _) = await world.ask(9)
    assert answered.completed.failure is not None
    assert answered.completed.failure.message == (
        "the budget of default/t (5 USD a day) is spent; it begins anew at 2026-11-24 00:00 UTC."
    )
    asked = world.accounts.asked
    await world.codes(10, 11)
    assert world.accounts.asked == asked, "a spent day is not asked about again"
    world.now = NOW + timedelta(hours=12)
    world.accounts.spent = 0.0
    assert await world.codes(12) == ["teacher"]


async def test_many_at_once_spend_no_more_than_the_limit() -> None:
    world = World(make_task())
    said = await asyncio.gather(*(world.codes(n) for n in range(40)))
    assert sorted(code for [code] in said) == ["budget"] * 35 + ["teacher"] * 5
    assert world.accounts.spent == 5.0


async def test_without_a_limit_nobody_is_asked() -> None:
    world = World(make_task(usd_per_day=None))
    assert await world.codes(*range(8)) == ["teacher"] * 8
    assert world.accounts.asked == 0


async def test_at_the_limit_the_student_answers_what_it_may_and_nothing_else() -> None:
    confident, unsure = World(make_task(usd_per_day=0.5), live()), World(make_task(usd_per_day=0.5), live(), 0.1)
    assert await confident.codes(1, 2) == ["student", "student"]
    assert await unsure.codes(1, 2) == ["budget", "budget"]
    assert confident.teacher.calls == unsure.teacher.calls == 0


async def test_reject_refuses_the_students_share_too() -> None:
    world = World(make_task(usd_per_day=1.0, at_limit="reject"), live())
    assert await world.codes(1) == ["student"]
    assert await world.codes(2) == ["student"], "its audit finds out that the limit is reached"
    assert await world.codes(3) == ["budget"]
    assert world.student.calls == 2


async def test_queue_parks_what_the_student_may_not_answer() -> None:
    world = World(make_task(usd_per_day=0.5, at_limit="queue"), live(), 0.1)
    answered, _ = await world.ask(1)
    assert answered.parked is not None
    assert answered.parked.until == datetime(2026, 11, 24, tzinfo=UTC)
    assert not world.spending.may_pay(world.task.key)
    # Whoever cannot wait, and what Stillhouse asks for itself, is told at once.
    for changes in ({"deadline_ms": 1000}, {"purpose": "gate"}):
        answered, _ = await world.ask(2, **changes)
        assert answered.parked is None
        assert answered.completed.failure.code == "budget"


def test_a_parked_request_comes_back_as_it_was() -> None:
    request = InferenceRequested(task="t", input="x", reply_to="somewhere", group="g", tenant="me")
    waiting = parked(request, NOW)
    assert (waiting.id, waiting.until, waiting.TYPE) == (request.id, NOW, "inference.parked")
    assert unparked(waiting) == request


async def test_audits_go_on_with_what_is_kept_back_for_them() -> None:
    world = World(make_task(usd_per_day=10.0, kept_for_audits=0.2), live())
    world.accounts.spent = 8.0
    (one, audits), (two, more), (three, none) = [await world.ask(n) for n in range(3)]
    assert [len(audits), len(more), len(none)] == [1, 1, 0]
    assert [a.completed.served_by for a in (one, two, three)] == ["student"] * 3
    assert world.accounts.spent == 10.0
    unaudited = World(make_task(usd_per_day=10.0, kept_for_audits=0.2))
    unaudited.accounts.spent = 8.0
    assert await unaudited.codes(1) == ["budget"]


async def test_while_redis_is_away_no_teacher_is_called_and_afterwards_it_is() -> None:
    world = World(make_task())
    world.accounts.away = True
    assert await world.codes(1, 2) == ["budget", "budget"]
    assert world.teacher.calls == 0
    assert world.accounts.asked == 1, "what is away is not asked for each request"
    world.accounts.away = False
    world.now += timedelta(seconds=3)
    assert await world.codes(3) == ["teacher"]


async def test_what_could_not_be_settled_is_settled_later_once() -> None:
    world = World(make_task())
    world.teacher.waits = asyncio.Event()
    asking = asyncio.create_task(world.ask(1))
    await world.teacher.called.wait()
    world.accounts.away = True
    world.teacher.waits.set()
    answered, _ = await asking
    assert answered.completed.status == "ok", "the answer is paid for; it is not withheld"
    assert (world.accounts.spent, len(world.accounts.held)) == (0.0, 1)
    world.accounts.away = False
    for _ in range(2):
        await world.spending._settle_owed()
    assert (world.accounts.spent, len(world.accounts.held)) == (1.0, 0)


async def test_a_call_that_failed_costs_nothing_and_one_that_did_not_end_in_time_costs_all() -> None:
    world = World(make_task())
    world.teacher.error = ModelError("no")
    assert await world.codes(1) == ["teacher_failed"]
    await world.spending._settle_owed()
    assert (world.accounts.spent, world.accounts.held) == (0.0, {})
    world.teacher.error, world.teacher.waits = None, asyncio.Event()
    assert await world.codes(2) == ["deadline"]
    await world.spending._settle_owed()
    assert (world.accounts.spent, world.accounts.held) == (1.0, {})


async def test_a_cheaper_call_gives_the_rest_back() -> None:
    world = World(make_task())
    world.teacher._answer = Prediction("a", 0.9, cost_usd=0.25)
    assert await world.codes(*range(17)) == ["teacher"] * 17
    assert world.accounts.spent == pytest.approx(4.25)
    assert await world.codes(17) == ["budget"], "only what a call can cost at most may still be set aside"


async def test_a_refusal_for_what_others_set_aside_is_not_for_the_whole_day() -> None:
    world = World(make_task(usd_per_day=1.0))
    world.teacher.waits = asyncio.Event()
    first = asyncio.create_task(world.ask(1))
    await world.teacher.called.wait()
    assert await world.codes(2) == ["budget"]
    world.teacher.error = ModelError("no")
    world.teacher.waits.set()
    await first
    await world.spending._settle_owed()
    world.teacher.error = None
    assert await world.codes(3) == ["teacher"]
