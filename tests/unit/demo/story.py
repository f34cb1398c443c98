"""A demo as its events tell it: scripted, so that the report is known to the last number."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stillhouse.demo.grammar import Message
from stillhouse.demo.player import Tally
from stillhouse.demo.source import Plan, Sizes
from stillhouse.events import (
    Answer,
    ArtefactRef,
    CostIncurred,
    DatasetRef,
    DriftDetected,
    Event,
    GatePassed,
    InferenceAudited,
    InferenceCompleted,
    RouteChanged,
    StudentRoute,
    StudentTrained,
    TrainingStarted,
)
from stillhouse.tasks import Task

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ARTEFACT = ArtefactRef(uri="file:///artefact", sha256="a" * 64, size=2_000_000)
TASK = Task.model_validate(
    {
        "name": "t",
        "labels": ("a", "b"),
        "teacher": {"seed": Path("seed.jsonl"), "usd_per_call": 0.002, "price_source": "declared <here>"},
        "students": ({"architecture": "hashed_ngrams"},),
        "budget": {"usd_per_cpu_hour": 0.36},
    }
)
MESSAGE = Message("hello", "a", "g")


def at(second: float) -> datetime:
    return T0 + timedelta(seconds=second)


def make_plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "task": "t",
        "sample": True,
        "origin": "a generated sample",
        "labels": ("a", "b"),
        "seed": (MESSAGE,),
        "first": (MESSAGE,) * 50,
        "second": (MESSAGE,) * 50,
        "late": ("late & new",),
        "sizes": Sizes(min_examples=300, min_new_examples=300, served_before=5, served_after=5),
    }
    return Plan(**(fields | changes))


def said(model: str, output: str = "a", cpu_ms: float = 0.0, cost: float = 0.0) -> Answer:
    return Answer(output=output, confidence=0.9, model=model, latency_ms=1.0, cpu_ms=cpu_ms, cost_usd=cost)


def completed(number: int, who: str = "teacher", **changes: Any) -> InferenceCompleted:
    student = who == "student"
    fields: dict[str, Any] = {
        "id": f"completed-{number}",
        "time": at(number + 0.1),
        "task": "t",
        "request_id": f"r{number}",
        "output": "a",
        "served_by": who,
        "teacher": None if student else said("t1", cpu_ms=10.0, cost=0.002),
        "student": said("s1", cpu_ms=1.0, cost=0.0000001) if student else None,
        "cost_usd": 0.0000001 if student else 0.002,
        "teacher_cost_usd": 0.002,
        "latency_ms": (1.0 if student else 20.0) + number / 1000,
        "requested_at": at(number).isoformat(),
    }
    return InferenceCompleted.model_validate(fields | changes)


def audit(number: int, student_id: str = "s1", loss: bool = False, stage: str = "live") -> InferenceAudited:
    return InferenceAudited(
        id=f"audit-{number}",
        time=at(number + 0.2),
        task="t",
        request_id=f"r{number}",
        input="hello",
        student_id=student_id,
        artefact_sha256="a" * 64,
        stage=stage,  # type: ignore[arg-type]
        pi=0.5,
        teacher=said("t1"),
        student=said(student_id, "b" if loss else "a"),
        threshold=0.5,
        would_serve=True,
        agrees=not loss,
        served_by="student",
        overhead_usd=0.002,
    )


def started(student_id: str, second: float) -> TrainingStarted:
    return TrainingStarted(
        id=f"started-{student_id}",
        time=at(second),
        task="t",
        job_id=f"job-{student_id}",
        student_id=student_id,
        architecture="hashed_ngrams",
        n_examples=300,
    )


def trained(student_id: str, second: float) -> StudentTrained:
    return StudentTrained(
        id=f"trained-{student_id}",
        time=at(second),
        task="t",
        student_id=student_id,
        job_id=f"job-{student_id}",
        architecture="hashed_ngrams",
        rung=0,
        artefact=ARTEFACT,
        dataset=DatasetRef(version="v", uri="file:///d", n_train=1, n_select=1, cutoff=at(second)),
        teacher_version="t1",
    )


def gate(student_id: str, stage: str, second: float) -> GatePassed:
    return GatePassed(
        id=f"{student_id}-{stage}",
        time=at(second),
        task="t",
        student_id=student_id,
        stage=stage,  # type: ignore[arg-type]
        reason="holds",
        n=200,
        teacher_calls=3,
        evidence=25.0,
    )


def route(version: int, second: float, live: str | None = None, retired: tuple[str, ...] = ()) -> RouteChanged:
    student = None
    if live is not None:
        student = StudentRoute(
            student_id=live, architecture="hashed_ngrams", artefact=ARTEFACT, threshold=0.5, since=at(second)
        )
    return RouteChanged(
        id=f"route-{version}",
        time=at(second),
        task="t",
        version=version,
        stage="live" if live else "teacher",
        live=student,
        retired=list(retired),
        reason="because",
        changed_by="gate.passed",
        cause_id="c",
    )


def drift(student_id: str, second: float) -> DriftDetected:
    return DriftDetected(
        id=f"drift-{student_id}",
        time=at(second),
        task="t",
        student_id=student_id,
        statistic=14.0,
        alarm_level=13.8,
        audits=10,
        estimate=0.7,
        lower=0.6,
        upper=0.8,
        window=10,
    )


def cost(name: str, usd: float, second: float, kind: str = "training") -> CostIncurred:
    return CostIncurred(
        id=f"cost-{name}",
        time=at(second),
        task="t",
        cause_id=name,
        kind=kind,  # type: ignore[arg-type]
        usd=usd,
    )


def whole_story() -> tuple[list[Event], Tally]:
    """Forty requests: 10 by the teacher, 15 by s1, 5 by the teacher again, 10 by s2; the traffic changes at 20."""
    events: list[Event] = [completed(n) for n in range(1, 11)]
    events += [started("s1", 8), trained("s1", 9), cost("s1", 0.01, 9.5), gate("s1", "offline", 10)]
    events += [route(1, 10.5, "s1"), *(completed(n, "student") for n in range(11, 26))]
    events += [audit(n) for n in (12, 14, 16, 18)] + [audit(n, loss=True) for n in (22, 24)]
    events += [drift("s1", 25.5), route(2, 25.6, None, ("s1",)), *(completed(n) for n in range(26, 31))]
    events += [started("s2", 28), trained("s2", 30), gate("s2", "offline", 30.2), cost("s2-gate", 0.005, 30.3, "gate")]
    events += [route(3, 30.5, "s2", ("s1",)), *(completed(n, "student") for n in range(31, 41))]
    events += [audit(n, "s2") for n in (32, 34, 36, 38)]
    tally = Tally(sent=40, answered=40, duplicates_sent={"r5", "r20"}, injected_at=at(19.9), sent_before=19)
    return events, tally
