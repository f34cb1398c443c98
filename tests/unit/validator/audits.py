"""Audits and tasks, as tests of the validator need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillhouse.events import Answer, InferenceAudited
from stillhouse.tasks import Task

SHA = "a" * 64


def make_task(**changes: Any) -> Task:
    fields: dict[str, Any] = {
        "name": "intents",
        "labels": ("a", "b"),
        "teacher": {"seed": Path("seed.jsonl"), "usd_per_call": 0.002},
        "students": ({"architecture": "hashed_ngrams"},),
        "gate": {"shadow_requests": 20, "max_cases": 800},
    }
    return Task.model_validate(fields | changes)


def audit(number: int, stage: str = "canary", loss: bool = False, **changes: Any) -> InferenceAudited:
    said = Answer(output="b" if loss else "a", confidence=0.9, model="s1", latency_ms=5.0)
    fields: dict[str, Any] = {
        "id": f"audit-{number}",
        "task": "intents",
        "request_id": f"request-{number}",
        "input": "x",
        "student_id": "s1",
        "artefact_sha256": SHA,
        "stage": stage,
        "pi": 1.0,
        "teacher": Answer(output="a", confidence=1.0, model="t", latency_ms=9.0),
        "student": said,
        "threshold": 0.5,
        "would_serve": True,
        "agrees": not loss,
        "served_by": "teacher",
    }
    return InferenceAudited.model_validate(fields | changes)
