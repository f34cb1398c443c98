"""A month in under a minute: a task with limits, a change of price and a drift, through the platform's own decisions.

`python -m tests.integration.economics.month` prints it in words. Simulated are the clock, the texts, the two models (a
teacher that knows, a student that agrees in 98 of 100 cases until the 16th and in 70 afterwards) and what a training
and a gate take; everything that decides, pays, books and explains is the platform's, with a real Valkey and a real
store.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from services.drift_monitor.watch import Watch, alarm, count
from services.observer.recording import (
    audit_entry,
    completed_entry,
    cost_entry,
    decision_row,
    route_row,
)
from services.observer.storage import storage_costs
from services.router.answering import Answered, Answering
from services.router.controller import decide as decide_route
from services.router.spending import Spending
from services.trainer.control import BudgetControl
from services.trainer.policy import Counts, decide, student_id_of
from services.trainer.state import TaskState, fold
from stillhouse.bus.metering import Meter
from stillhouse.bus.redis import connect_redis
from stillhouse.bus.spending import Accounts, ledger_of
from stillhouse.economics import Savings, summarise
from stillhouse.economics.explain import Line, told
from stillhouse.economics.limits import name_of
from stillhouse.embedded.ports import free_port
from stillhouse.embedded.valkey import EmbeddedValkey
from stillhouse.events import (
    ArtefactRef,
    BudgetEvaluated,
    CostIncurred,
    DatasetRef,
    DriftDetected,
    Event,
    GatePassed,
    InferenceRequested,
    RouteChanged,
    StudentTrained,
    follow_id,
)
from stillhouse.models.port import Prediction
from stillhouse.settings import Redis as RedisSettings
from stillhouse.store import EvaluationRow, LedgerRow, Store
from stillhouse.tasks import Task
from tests.integration.economics.conftest import nothing_to_wait_for

START = datetime(2026, 11, 1, tzinfo=UTC)
DAYS, A_DAY, AT_ONCE, HOURS = 30, 240, 20, 4
LIMIT_DAY, LIMIT_MONTH = 2.6, 46.0
OLD_PRICE, NEW_PRICE, PRICE_DAY, DRIFT_DAY = 0.01, 0.015, 10, 16
TRAINING_USD, GATE_USD = 0.30, 0.05
LABELS = ("order", "refund", "praise")

TASK = Task.model_validate(
    {
        "name": "support",
        "labels": LABELS,
        "teacher": {"seed": Path("seed.jsonl"), "usd_per_call": OLD_PRICE},
        "students": ({"architecture": "hashed_ngrams"},),
        "gate": {"canary_share": 0.5, "student_timeout_ms": 60_000},
        "audit": {"pi": 0.2},
        "drift": {"average_run_length": 10_000},
        "budget": {
            "min_examples": 900,
            "min_new_examples": 700,
            "usd_per_day": LIMIT_DAY,
            "usd_per_month": LIMIT_MONTH,
            "horizon_requests": 10_000,
        },
        "prices": {
            "entries": [
                {"valid_from": "2026-10-01T00:00:00Z", "source": "cloud list", "usd_per_gb_month": 50.0},
                {
                    "valid_from": START + timedelta(days=PRICE_DAY - 1),
                    "source": "the vendor's letter",
                    "usd_per_call": {"default/support": NEW_PRICE},
                },
            ]
        },
    }
)


@dataclass
class Kept:
    """What the simulation itself saw, to be compared with what the platform says."""

    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # teacher calls by day
    called_usd: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    charged_usd: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    answered: int = 0
    refused: int = 0
    by_student: int = 0
    wrong: int = 0
    teacher_alone_usd: float = 0.0


@dataclass
class Month:
    """How it ended."""

    kept: Kept
    savings: Savings
    lines: list[Line]
    entries: list[dict[str, Any]]
    events: list[Event]


class Teacher:
    """Knows the label, which is the text's first word; every call is counted."""

    version = "teacher-1"

    def __init__(self, world: World) -> None:
        self._world = world

    async def predict(self, batch: Any) -> list[Prediction]:
        day, price = name_of("day", self._world.now), OLD_PRICE  # the worker knows the declared price only
        self._world.kept.calls[day] += len(batch)
        self._world.kept.called_usd[day] += TASK.usd_per_call(self._world.now) * len(batch)
        await asyncio.sleep(0)
        return [Prediction(text.split()[0], 0.99, cost_usd=price) for text in batch]


class Student:
    """Agrees as often as the time allows, confident in four of five cases; a case's fate is a hash of its text."""

    def __init__(self, world: World, name: str, trained: datetime) -> None:
        self._world, self.version, self._trained = world, name, trained

    async def predict(self, batch: Any) -> list[Prediction]:
        drifted = self._world.now >= START + timedelta(days=DRIFT_DAY - 1) > self._trained
        said = []
        for text in batch:
            label, sure = text.split()[0], chance(text, "confident") < 0.8
            right = chance(text, self.version) < (0.7 if drifted else 0.98)
            other = LABELS[(LABELS.index(label) + 1) % len(LABELS)]
            said.append(Prediction(label if right else other, 0.9 if sure else 0.3, cost_usd=1e-6))
        return said


class World:
    """The loop of one task, four hours at a time."""

    def __init__(self, redis: Redis, store: Store) -> None:
        self.now, self.kept, self.store = START, Kept(), store
        accounts = Accounts(redis, ledger_of(store), nothing_to_wait_for, self.clock)
        self.accounts = accounts
        self.spending = Spending({TASK.key: TASK}, accounts, self.clock)
        self.control = BudgetControl(store, accounts, self.clock)
        self.state, self.route, self.watch = TaskState(), None, Watch.start(TASK)
        self.examples: list[datetime] = []
        self.students: dict[str, Student] = {}
        self.answering = Answering(
            {TASK.key: TASK},
            {TASK.key: Teacher(self)},
            lambda _: self.route,
            lambda student: self.students[student.student_id],
            self.spending,
            Meter("routing", {TASK.key: TASK}),
        )
        self.route: RouteChanged | None = None
        self.trained: StudentTrained | None = None
        self.entries: list[LedgerRow] = []
        self.events: list[Event] = []

    def clock(self) -> datetime:
        return self.now

    async def run(self) -> None:
        for day in range(DAYS):
            for hour in range(0, 24, HOURS):
                self.now = START + timedelta(days=day, hours=hour)
                if hour == 0:
                    for cost in await asyncio.to_thread(storage_costs, self.store, {TASK.key: TASK}, self.now):
                        await self.spend(cost)
                for first in range(0, A_DAY * HOURS // 24, AT_ONCE):
                    numbers = range(first, first + AT_ONCE)
                    await asyncio.gather(*(self.ask(f"{day}-{hour}-{number}") for number in numbers))
                await self.gates()
                await asyncio.to_thread(self.write)
                await self.evaluate()
        self.write()

    async def ask(self, name: str) -> None:
        label = LABELS[int(chance(name, "label") * len(LABELS))]
        request = InferenceRequested(id=name, time=self.now, task=TASK.name, input=f"{label} {name}")
        answered = await self.answering.answer(request)
        await self.book(answered, label)

    async def book(self, answered: Answered, label: str) -> None:
        completed = answered.completed.model_copy(update={"time": self.now})
        audits = [event.model_copy(update={"time": self.now}) for event in await answered.audits()]
        self.entries.append(completed_entry(completed))
        self.entries += [audit_entry(event) for event in audits]
        if completed.status == "error":
            self.kept.refused += 1
            return
        self.kept.answered += 1
        self.kept.by_student += completed.served_by == "student"
        self.kept.wrong += completed.output != label
        self.kept.teacher_alone_usd += TASK.usd_per_call(self.now)
        if completed.teacher is not None or audits:
            self.examples.append(self.now)
        for event in audits:
            if event.stage == "live" and not self.watch.announced:
                self.watch = count(self.watch, [(event.request_id, event.loss)], 200)
                if self.watch.test.alarm:
                    self.watch = self.watch.model_copy(update={"announced": True})
                    await self.say(alarm(self.watch, event).model_copy(update={"time": self.now}))

    async def gates(self) -> None:
        """The next stage's gate passes: shadow, canary, live."""
        stage = self.route.candidate_stage if self.route is not None else None
        if stage is not None and self.trained is not None:
            await self.verdict(stage, self.trained)

    async def evaluate(self) -> None:
        """As `services.trainer.training.Training.evaluate`, with a training that takes no time."""
        since = self.state.since
        new = sum(at > since for at in self.examples) if since else len(self.examples)
        decision = decide(TASK, self.state, Counts(len(self.examples), new))
        decision = await self.control.weigh(TASK, decision, self.state.live)
        announced = f"{self.state.cause_id}\n{decision.strategy}\n{decision.reason}"
        if announced != self.state.announced:
            number = self.state.announcements
            self.state = self.state.model_copy(update={"announced": announced, "announcements": number + 1})
            said = {"strategy": decision.strategy, "reason": decision.reason, "numbers": decision.numbers}
            await self.say(
                BudgetEvaluated(
                    id=follow_id(announced, "budget.evaluated", f"{TASK.key}/{number}"),
                    time=self.now,
                    task=TASK.name,
                    **said,
                )
            )
        if decision.plan is not None:
            await self.train(decision.plan.job_id, decision.plan.rung)

    async def train(self, job_id: str, rung: int) -> None:
        name = student_id_of(TASK, job_id, rung)
        self.trained = StudentTrained(
            time=self.now,
            task=TASK.name,
            student_id=name,
            job_id=job_id,
            architecture="hashed_ngrams",
            rung=rung,
            artefact=ArtefactRef(uri=f"file:///{name}", sha256=name, size=1),
            dataset=DatasetRef(version="v", uri="file:///d", n_train=len(self.examples), n_select=0, cutoff=self.now),
            teacher_version="teacher-1",
            cpu_seconds=21_600.0,
        )
        self.students[name] = Student(self, name, self.now)
        await self.spend(self.cost("training", name, TRAINING_USD))
        await self.say(self.trained)
        await self.verdict("offline", self.trained)

    async def verdict(self, stage: str, student: StudentTrained) -> None:
        passed = GatePassed(
            id=follow_id(student.student_id, "gate.passed", stage),
            time=self.now,
            task=TASK.name,
            student_id=student.student_id,
            stage=stage,
            reason="the promise holds",
            n=400,
            estimate=0.98,
            threshold=0.5,
            student=student,
        )
        row = EvaluationRow(
            passed.id, self.now, "default", TASK.name, student.student_id, stage, "passed", passed.reason, 400
        )
        self.store.append_evaluations([row])
        await self.spend(self.cost("gate", passed.id, GATE_USD))
        await self.say(passed)

    async def say(self, event: Event) -> None:
        """To everybody who listens: the route controller, the trainer, the observer."""
        self.events.append(event)
        if isinstance(event, GatePassed | DriftDetected):
            after = decide_route(self.route, event, TASK)
            if isinstance(event, DriftDetected):
                self.state = fold(self.state, event, TASK)
            if after is not None:
                self.route = after.model_copy(update={"time": self.now})
                self.state = fold(self.state, self.route, TASK)
                self.store.append_routes([route_row(self.route)])
                self.events.append(self.route)
                if after.live is not None:
                    self.watch = Watch.start(TASK)
        if isinstance(event, StudentTrained):
            self.state = fold(self.state, event, TASK)
        if isinstance(event, StudentTrained | DriftDetected | BudgetEvaluated):
            self.store.append_decisions([decision_row(event)])

    def cost(self, kind: str, cause: str, usd: float) -> CostIncurred:
        fields = {"task": TASK.name, "cause_id": cause, "kind": kind, "usd": usd, "time": self.now}
        return CostIncurred.model_validate(fields | {"id": follow_id(cause, "cost.incurred", kind)})

    async def spend(self, cost: CostIncurred) -> None:
        for _ in range(2):  # delivered twice
            await self.control.charge(TASK, cost)
        self.kept.charged_usd[name_of("day", self.now)] += cost.usd
        self.entries.append(cost_entry(cost, TASK))

    def write(self) -> None:
        entries, self.entries = self.entries, []
        self.store.append_ledger(entries)


def chance(text: str, salt: str) -> float:
    """A number in [0, 1) that belongs to these two."""
    return int.from_bytes(hashlib.sha256(f"{salt}/{text}".encode()).digest()[:8]) / 2**64


async def simulate(redis: Redis, folder: Path) -> Month:
    """The month, and how it ended."""
    store = Store(folder / "store")
    world = World(redis, store)
    await world.run()
    entries = store.ledger(TASK.key).to_pylist()
    decisions, routes = store.decisions(TASK.key).to_pylist(), store.routes(TASK.key).to_pylist()
    lines = told(TASK.key, entries, decisions, routes, store.evaluations(TASK.key).to_pylist(), TASK)
    return Month(world.kept, summarise(entries), lines, entries, world.events)


async def main() -> None:
    """Print the month in words."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        valkey = EmbeddedValkey(folder / "valkey", free_port(), folder / "valkey.log")
        await valkey.start()
        redis = connect_redis(RedisSettings(url=valkey.url))
        try:
            month = await simulate(redis, folder)
        finally:
            await redis.aclose()
            await valkey.stop()
    for line in month.lines:
        print(f"{line.time:%Y-%m-%d %H:%M}  {line.text}")
    shown = {name: value for name, value in asdict(month.savings).items() if name != "series"}
    print("\n" + "\n".join(f"{name}: {value}" for name, value in shown.items()))


if __name__ == "__main__":
    asyncio.run(main())
