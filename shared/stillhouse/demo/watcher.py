"""What happened, folded from the events of the log: nothing here is told by the services in any other way."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from stillhouse.bus import BadRecord, client_options, decode
from stillhouse.events import (
    BudgetEvaluated,
    CostIncurred,
    DriftCleared,
    DriftDetected,
    Event,
    ExampleRecorded,
    GateDecided,
    GateFailed,
    GatePassed,
    GateUndecided,
    InferenceAudited,
    InferenceCompleted,
    RouteChanged,
    StudentTrained,
    TrainingFailed,
    TrainingStarted,
)
from stillhouse.settings import Kafka

TOPICS: Final = (
    InferenceCompleted.TYPE,
    InferenceAudited.TYPE,
    ExampleRecorded.TYPE,
    CostIncurred.TYPE,
    TrainingStarted.TYPE,
    TrainingFailed.TYPE,
    BudgetEvaluated.TYPE,
    StudentTrained.TYPE,
    GatePassed.TYPE,
    GateFailed.TYPE,
    GateUndecided.TYPE,
    DriftDetected.TYPE,
    DriftCleared.TYPE,
    RouteChanged.TYPE,
)


@dataclass(frozen=True, slots=True)
class Answered:
    """The first answer to a request. Costs in USD; CPU in milliseconds, None where that model was not asked."""

    requested_at: datetime
    served_by: str | None  # None: an error answer
    purpose: str
    latency_ms: float
    cost_usd: float
    teacher_cost_usd: float
    teacher_cpu_ms: float | None
    student_cpu_ms: float | None
    output: str | None


@dataclass(frozen=True, slots=True)
class Audit:
    """An audit, in the order of the log, which is the order that tests and detectors see."""

    request_id: str
    student_id: str
    stage: str
    loss: bool
    overhead_usd: float


@dataclass(slots=True)
class State:
    """Everything known of one task. Events may come twice, and those of different topics in any order."""

    task_key: str
    answers: dict[str, Answered] = field(default_factory=dict)
    answered_twice: set[str] = field(default_factory=set)  # requests with two different answers
    audits: dict[str, Audit] = field(default_factory=dict)
    examples: set[str] = field(default_factory=set)
    overheads: dict[str, CostIncurred] = field(default_factory=dict)
    trained: dict[str, StudentTrained] = field(default_factory=dict)
    gates: dict[str, GateDecided] = field(default_factory=dict)
    routes: dict[int, RouteChanged] = field(default_factory=dict)
    drifts: dict[str, DriftDetected] = field(default_factory=dict)
    cleared: dict[str, DriftCleared] = field(default_factory=dict)
    failed: dict[str, TrainingFailed] = field(default_factory=dict)
    budget: BudgetEvaluated | None = None
    news: deque[tuple[datetime, str]] = field(default_factory=lambda: deque(maxlen=500))
    by_teacher: int = 0
    by_student: int = 0
    spent_usd: float = 0.0  # answers, audits and overheads
    list_price_usd: float = 0.0  # what the teacher alone would have cost
    _running: set[str] = field(default_factory=set)
    _ended: set[str] = field(default_factory=set)

    @property
    def route(self) -> RouteChanged | None:
        """The newest route; None: the teacher has answered everything so far."""
        return self.routes[max(self.routes)] if self.routes else None

    @property
    def live(self) -> str | None:
        """The student that serves all requests it is sure of."""
        return self.route.live.student_id if self.route is not None and self.route.live is not None else None

    @property
    def candidate(self) -> bool:
        """Whether a student is on its way through the stages."""
        return self.route is not None and self.route.candidate is not None

    @property
    def stage(self) -> str:
        """`teacher`, `shadow`, `canary` or `live`."""
        return self.route.stage if self.route is not None else "teacher"

    @property
    def training(self) -> bool:
        """Whether a training job runs."""
        return bool(self._running - self._ended)

    @property
    def judging(self) -> bool:
        """Whether the newest student waits for its offline or shadow verdict."""
        newest = max(self.trained.values(), key=lambda trained: trained.time, default=None)
        if newest is None or newest.student_id == self.live:
            return False
        final = (gate for gate in self.gates.values() if gate.student_id == newest.student_id and gate.final)
        verdicts = {gate.stage: gate.verdict for gate in final}
        return "offline" not in verdicts or (verdicts["offline"] == "passed" and "shadow" not in verdicts)

    def fold(self, event: Event) -> None:
        """Take one event; of other tasks, and events that were taken before, change nothing."""
        if event.task_key != self.task_key:
            return
        match event:
            case InferenceCompleted():
                self._answered(event)
            case InferenceAudited():
                if event.id not in self.audits:
                    audit = Audit(event.request_id, event.student_id, event.stage, event.loss, event.overhead_usd)
                    self.audits[event.id] = audit
                    self.spent_usd += event.overhead_usd
            case ExampleRecorded():
                self.examples.add(event.id)
            case CostIncurred():
                if event.id not in self.overheads:
                    self.overheads[event.id] = event
                    self.spent_usd += event.usd
            case _:
                self._control(event)

    def _answered(self, event: InferenceCompleted) -> None:
        answer = _answer(event)
        known = self.answers.setdefault(event.request_id, answer)
        if known is not answer:
            # An answer that the router remembered and said again is the same to the last bit.
            if known != answer:
                self.answered_twice.add(event.request_id)
            return
        self.spent_usd += event.cost_usd
        if event.purpose == "serve" and event.status == "ok":
            self.list_price_usd += event.teacher_cost_usd
            self.by_teacher += event.served_by == "teacher"
            self.by_student += event.served_by == "student"

    def _control(self, event: Event) -> None:
        match event:
            case TrainingStarted():
                if event.job_id in self._running:
                    return
                self._running.add(event.job_id)
                self._tell(event, f"training {event.architecture} on {event.n_examples:,} examples")
            case TrainingFailed():
                self._ended.add(event.job_id)
                if event.id not in self.failed:
                    self.failed[event.id] = event
                    self._tell(event, f"training failed: {event.error}")
            case StudentTrained():
                self._ended.add(event.job_id)
                if event.student_id not in self.trained:
                    self.trained[event.student_id] = event
                    self._tell(event, f"student {event.student_id} trained, {event.artefact.size / 1e6:.1f} MB")
            case GateDecided():
                if event.id not in self.gates:
                    self.gates[event.id] = event
                    self._tell(event, f"{event.stage} gate of {event.student_id}: {event.verdict} (n = {event.n:,})")
            case RouteChanged():
                if event.version not in self.routes:
                    self.routes[event.version] = event
                    self._tell(event, f"route is now {event.stage}: {event.reason}")
            case DriftDetected():
                if event.id not in self.drifts:
                    self.drifts[event.id] = event
                    self._tell(
                        event, f"drift: {event.student_id} agrees on {100 * event.estimate:.0f} % of late audits"
                    )
            case DriftCleared(suspicion=None):
                if event.id not in self.cleared:
                    self.cleared[event.id] = event
                    self._tell(event, f"drift is over: {event.student_id} serves")
            case BudgetEvaluated():
                if self.budget is None or event.time >= self.budget.time:
                    self.budget = event
                    self._tell(event, f"budget: {event.strategy}, {event.reason}")
            case _:
                pass

    def _tell(self, event: Event, text: str) -> None:
        self.news.append((event.time, text))


def _answer(event: InferenceCompleted) -> Answered:
    return Answered(
        requested_at=datetime.fromisoformat(event.requested_at) if event.requested_at else event.time,
        served_by=event.served_by if event.status == "ok" else None,
        purpose=event.purpose,
        latency_ms=event.latency_ms,
        cost_usd=event.cost_usd,
        teacher_cost_usd=event.teacher_cost_usd,
        teacher_cpu_ms=event.teacher.cpu_ms if event.teacher is not None else None,
        student_cpu_ms=event.student.cpu_ms if event.student is not None else None,
        output=event.output,
    )


class Watcher:
    """Reads every topic from its first record, without a group, and folds."""

    def __init__(self, state: State, consumer: AIOKafkaConsumer) -> None:
        self.state = state
        self._consumer = consumer

    async def follow(self) -> None:
        """Fold until cancelled."""
        while True:
            await self.take(timeout_ms=200)

    async def take(self, timeout_ms: int) -> int:
        """Fold what comes within `timeout_ms`; how many records that was."""
        batches: dict[TopicPartition, list[Any]] = await self._consumer.getmany(timeout_ms=timeout_ms)
        for partition, records in batches.items():
            for record in records:
                try:
                    event = decode(partition.topic, record.value)
                except BadRecord:
                    continue  # the services put it aside and say why
                self.state.fold(event)
        return sum(len(records) for records in batches.values())


@asynccontextmanager
async def watching(kafka: Kafka, state: State) -> AsyncIterator[Watcher]:
    """A watcher that has all partitions of all topics. Raises `KafkaError`."""
    wait = {"fetch_max_wait_ms": 250} if kafka.embedded else {}
    # `earliest` rather than a seek: the consumer resets new partitions by itself, and that would overtake a seek.
    beginning = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
    consumer = AIOKafkaConsumer(**client_options(kafka), **wait, **beginning)
    try:
        await consumer.start()
        known = await consumer.topics()
        consumer.assign(
            [
                TopicPartition(topic, number)
                for topic in TOPICS
                if topic in known
                for number in sorted(consumer.partitions_for_topic(topic) or ())
            ]
        )
        yield Watcher(state, consumer)
    finally:
        await consumer.stop()
