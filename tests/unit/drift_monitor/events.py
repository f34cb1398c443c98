"""Audits and routes, as tests of the drift monitor need them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from stillhouse.events import Answer, InferenceAudited, RouteChanged
from tests.unit.trainer.tasks import T0, route


def audit(number: int, loss: bool = False, student_id: str = "s1", **changes: Any) -> InferenceAudited:
    fields: dict[str, Any] = {
        "id": f"audit-{student_id}-{number}",
        "time": T0 + timedelta(seconds=number),
        "task": "intents",
        "request_id": f"request-{number}",
        "input": "x",
        "student_id": student_id,
        "artefact_sha256": "a" * 64,
        "stage": "live",
        "pi": 0.1,
        "teacher": Answer(output="a", confidence=1.0, model="t", latency_ms=9.0),
        "student": Answer(output="b" if loss else "a", confidence=0.9, model=student_id, latency_ms=5.0),
        "threshold": 0.5,
        "would_serve": True,
        "agrees": not loss,
        "served_by": "student",
        "route_version": 3,
    }
    return InferenceAudited.model_validate(fields | changes)


def live(version: int, student_id: str | None, **more: Any) -> RouteChanged:
    return route(version, version, live=student_id, id=f"route-{version}", **more)
