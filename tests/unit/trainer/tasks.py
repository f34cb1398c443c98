"""A task and its events, as tests of the trainer need them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stillhouse.events import (
    ArtefactRef,
    DatasetRef,
    DriftDetected,
    GateFailed,
    RouteChanged,
    StudentRoute,
    StudentTrained,
)
from stillhouse.tasks import Task

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ARTEFACT = ArtefactRef(uri="file:///artefact", sha256="a" * 64, size=1)


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def make_task(**changes: Any) -> Task:
    fields: dict[str, Any] = {
        "name": "intents",
        "labels": ("a", "b", "c"),
        "teacher": {"seed": Path("seed.jsonl"), "usd_per_call": 0.002},
        "students": ({"architecture": "hashed_ngrams"}, {"architecture": "cut_encoder"}),
        "budget": {"min_examples": 100, "min_new_examples": 80},
    }
    return Task.model_validate(fields | changes)


def trained(student_id: str, minutes: float, rung: int = 0, job_id: str = "job") -> StudentTrained:
    return StudentTrained(
        time=at(minutes),
        task="intents",
        student_id=student_id,
        job_id=job_id,
        architecture="hashed_ngrams",
        rung=rung,
        artefact=ARTEFACT,
        dataset=DatasetRef(version="v", uri="file:///d", n_train=1, n_select=1, cutoff=at(minutes)),
        teacher_version="t",
    )


def gate_failed(student_id: str, minutes: float) -> GateFailed:
    return GateFailed(time=at(minutes), task="intents", student_id=student_id, stage="offline", reason="r", n=9)


def drift(student_id: str, minutes: float) -> DriftDetected:
    return DriftDetected(
        time=at(minutes),
        task="intents",
        student_id=student_id,
        statistic=1.0,
        alarm_level=1.0,
        audits=10,
        estimate=0.8,
        lower=0.7,
        upper=0.9,
        window=10,
    )


def route(version: int, minutes: float, live: str | None = None, candidate: str | None = None, **more) -> RouteChanged:
    def student(student_id: str | None) -> StudentRoute | None:
        if student_id is None:
            return None
        return StudentRoute(
            student_id=student_id, architecture="hashed_ngrams", artefact=ARTEFACT, threshold=0.5, since=T0
        )

    stage = "live" if live else "canary" if candidate else "teacher"
    fields: dict[str, Any] = {"reason": "r", "changed_by": "gate.passed", "cause_id": "c"} | more
    return RouteChanged(
        time=at(minutes),
        task="intents",
        version=version,
        stage=stage,
        live=student(live),
        candidate=student(candidate),
        candidate_stage="canary" if candidate else None,
        **fields,
    )
