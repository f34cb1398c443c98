"""Events, as tests of the observer need them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from stillhouse.events import Answer, InferenceAudited, InferenceCompleted

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def said(output: str = "a", model: str = "t", **more: Any) -> Answer:
    fields: dict[str, Any] = {"confidence": 0.9, "latency_ms": 5.0, "cpu_ms": 3.0, "distribution": {output: 0.9}}
    return Answer.model_validate({"output": output, "model": model} | fields | more)


def completed(number: int = 1, **changes: Any) -> InferenceCompleted:
    fields: dict[str, Any] = {
        "id": f"completed-{number}",
        "time": T0,
        "task": "intents",
        "request_id": f"request-{number}",
        "input": "where is volume 3",
        "output": "a",
        "served_by": "teacher",
        "reason": "no_student",
        "teacher": said(),
        "cost_usd": 0.002,
        "teacher_cost_usd": 0.002,
        "latency_ms": 6.0,
    }
    return InferenceCompleted.model_validate(fields | changes)


def audited(number: int = 1, **changes: Any) -> InferenceAudited:
    fields: dict[str, Any] = {
        "id": f"audited-{number}",
        "time": T0,
        "task": "intents",
        "request_id": f"request-{number}",
        "input": "where is volume 3",
        "student_id": "s1",
        "artefact_sha256": "a" * 64,
        "stage": "live",
        "pi": 0.1,
        "teacher": said(),
        "student": said("b", "s1", cpu_ms=1.0),
        "threshold": 0.5,
        "would_serve": True,
        "agrees": False,
        "served_by": "student",
        "overhead_usd": 0.002,
        "route_version": 3,
    }
    return InferenceAudited.model_validate(fields | changes)
