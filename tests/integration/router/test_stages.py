"""A student's way through the router on real parts: compared, serving its share, serving all, failing, taken out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from services.router.app import build_app
from stillhouse.bus import consumer_options, decode, encode, producer_options
from stillhouse.bus.service import running
from stillhouse.client import Client
from stillhouse.events import (
    DatasetRef,
    DriftDetected,
    GatePassed,
    InferenceAudited,
    RouteChanged,
    StudentTrained,
)
from stillhouse.models.artefact import folder_of
from stillhouse.models.student import OnnxStudent
from tests.integration.router.test_round_trip import FakeTeacher, settings  # noqa: F401  (a fixture)
from tests.integration.students import write_student

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = [f"hello number {n}" if n % 2 else f"goodbye number {n}" for n in range(40)]


class Log:
    """What a test says to the log, and reads of it."""

    def __init__(self, kafka, topics) -> None:
        self._producer = AIOKafkaProducer(**producer_options(kafka))
        self._consumer = AIOKafkaConsumer(*topics, **consumer_options(kafka))
        self.events = []

    async def __aenter__(self):
        await self._producer.start()
        await self._consumer.start()
        return self

    async def __aexit__(self, *_):
        await self._producer.stop()
        await self._consumer.stop()

    async def say(self, event) -> None:
        record = encode(event, source="/test")
        await self._producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)

    async def until(self, wanted):
        """Read until an event fulfils `wanted`, and give it."""
        async with asyncio.timeout(60):
            while True:
                record = await self._consumer.getone()
                event = decode(record.topic, record.value)
                self.events.append(event)
                if wanted(event):
                    return event

    async def audits(self, number: int) -> list:
        """Read until there are `number` audits that no rule decided."""

        def found() -> list:
            return [e for e in self.events if isinstance(e, InferenceAudited) and not e.policy]

        if len(found()) < number:
            await self.until(lambda _: len(found()) >= number)
        return found()


def verdict(ref, stage: str, minute: int, threshold: float = 0.0, name: str = "tiny-1") -> GatePassed:
    time = NOW + timedelta(minutes=minute)
    student = StudentTrained(
        task="greet",
        student_id=name,
        job_id="job",
        architecture="hashed_ngrams",
        rung=0,
        artefact=ref,
        dataset=DatasetRef(version="v", uri="file:///d", n_train=1, n_select=1, cutoff=time - timedelta(minutes=1)),
        teacher_version="fake-1",
    )
    return GatePassed(
        time=time, task="greet", student_id=name, stage=stage, reason="r", n=9, threshold=threshold, student=student
    )


@contextlib.asynccontextmanager
async def parts(settings, teacher):  # noqa: F811
    service = build_app(settings, {"default/greet": teacher})
    topics = (RouteChanged.TYPE, InferenceAudited.TYPE)
    async with running(service), Log(settings.kafka, topics) as log, Client(settings) as client:
        yield log, client


async def in_force(log, client, stage: str) -> RouteChanged:
    """The route of `stage`, once the router obeys it: it loads the student first."""
    route = await log.until(lambda e: isinstance(e, RouteChanged) and e.stage == stage)
    async with asyncio.timeout(30):
        while (await client.request(task="greet", input="fraud", timeout=30)).route_version < route.version:
            pass
    return route


async def ask(client, texts=TEXTS):
    return await asyncio.gather(*(client.request(task="greet", input=text, timeout=30) for text in texts))


def student_pids() -> set[int]:
    """Worker processes under this one."""
    children = (p for t in os.listdir(f"/proc/{os.getpid()}/task") for p in _children(t))
    return {int(pid) for pid in children if b"worker_main" in _command(pid)}


def _children(thread: str) -> list[str]:
    with open(f"/proc/{os.getpid()}/task/{thread}/children") as file:
        return file.read().split()


def _command(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


@pytest.fixture
def ref(tmp_path):
    return write_student(tmp_path, labels=("hello", "bye"))


async def test_a_student_earns_its_way_and_drift_takes_it_back(settings, ref) -> None:  # noqa: F811
    teacher, local = FakeTeacher(), OnnxStudent(folder_of(ref))
    said = {text: local.predict_text(text) for text in TEXTS}
    async with parts(settings, teacher) as (log, client):
        assert {a.reason for a in await ask(client, TEXTS[:3])} == {"no_student"}

        await log.say(verdict(ref, "offline", 1))
        await in_force(log, client, "shadow")
        answers = await ask(client)
        assert {(a.served_by, a.reason, a.audited) for a in answers} == {("teacher", "shadow", True)}
        audits = await log.audits(len(TEXTS))
        for audit in audits:
            label, confidence, _ = said[audit.input]
            assert (audit.student.output, audit.student.confidence) == (label, confidence)
            assert audit.agrees == (label == audit.teacher.output)
            assert (audit.stage, audit.pi, audit.served_by) == ("shadow", 1.0, "teacher")

        await log.say(verdict(ref, "shadow", 2))
        await in_force(log, client, "canary")
        answers = await ask(client)
        assert {a.reason for a in answers} == {"student", "canary_holdout"}
        assert all(a.output == said[a.input][0] for a in answers if a.served_by == "student")
        await log.audits(2 * len(TEXTS))

        await log.say(verdict(ref, "canary", 3))
        live = await in_force(log, client, "live")
        calls = len(teacher.calls)
        answers = await ask(client)
        assert {(a.served_by, a.reason) for a in answers} == {("student", "student")}
        audited = sum(a.audited for a in answers)
        assert 0 < audited < len(TEXTS)
        audits = (await log.audits(2 * len(TEXTS) + audited))[-audited:]
        assert len(teacher.calls) - calls == audited
        assert {(a.stage, a.pi, a.would_serve, a.served_by) for a in audits} == {("live", 0.5, True, "student")}
        assert {a.overhead_usd for a in audits} == {0.002}

        policy = (await ask(client, ["fraud! hello"]))[0]
        assert (policy.served_by, policy.reason) == ("teacher", "policy")

        alarm = DriftDetected(
            time=live.time + timedelta(minutes=1),
            task="greet",
            student_id="tiny-1",
            statistic=9,
            alarm_level=8,
            audits=9,
            estimate=0.5,
            lower=0.4,
            upper=0.6,
            window=9,
        )
        await log.say(alarm)
        route = await in_force(log, client, "teacher")
        assert route.retired == ["tiny-1"]
        assert {a.reason for a in await ask(client, TEXTS[:3])} == {"no_student"}


async def test_below_its_threshold_and_when_it_dies_the_teacher_answers(settings, ref) -> None:  # noqa: F811
    local = OnnxStudent(folder_of(ref))
    threshold = sorted(local.predict_text(text)[1] for text in TEXTS)[len(TEXTS) // 2]
    async with parts(settings, FakeTeacher()) as (log, client):
        for minute, stage in enumerate(("offline", "shadow", "canary")):
            await log.say(verdict(ref, stage, minute, threshold))
        await in_force(log, client, "live")
        for answer in await ask(client):
            confident = local.predict_text(answer.input)[1] >= threshold
            wanted = ("student", "student") if confident else ("teacher", "below_threshold")
            assert (answer.served_by, answer.reason) == wanted
            assert answer.teacher_cost_usd == 0.002
        [pid] = student_pids()
        os.kill(pid, signal.SIGSTOP)
        try:
            answer = (await ask(client, TEXTS[:1]))[0]
            assert (answer.served_by, answer.reason, answer.output) == ("teacher", "student_failed", "bye")
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_a_new_router_knows_the_routes_and_an_artefact_that_changed_serves_nobody(settings, ref) -> None:  # noqa: F811
    async with parts(settings, FakeTeacher()) as (log, client):
        for minute, stage in enumerate(("offline", "shadow", "canary")):
            await log.say(verdict(ref, stage, minute))
        await in_force(log, client, "live")
    async with parts(settings, FakeTeacher()) as (_, client):
        assert {a.served_by for a in await ask(client, TEXTS[:3])} == {"student"}
    model = folder_of(ref) / "model.onnx"
    model.write_bytes(model.read_bytes() + b"x")
    async with parts(settings, FakeTeacher()) as (_, client):
        assert {(a.served_by, a.reason) for a in await ask(client, TEXTS[:3])} == {("teacher", "student_failed")}
