"""Rows for the store's tests; number `i` was recorded in second `i`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from stillhouse.events import RouteChanged
from stillhouse.store import AuditRow, ExampleRow, LedgerRow, RouteRow
from stillhouse.store.redaction import input_hash

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(i: int) -> datetime:
    # Not on a whole millisecond: statistics in the log must not be cut below what the rows hold.
    return START + timedelta(seconds=i, microseconds=123_456)


def example(i: int, task: str = "a", **changes: Any) -> ExampleRow:
    fields: dict[str, Any] = {
        "example_id": f"{task}-{i:06d}",
        "time": at(i),
        "tenant": "default",
        "task": task,
        "request_id": f"r{i}",
        "input": f"zebra sentence {i}",
        "input_sha256": input_hash(f"zebra sentence {i}"),
        "output": "yes",
        "distribution": '{"yes": 1.0}',
        "confidence": 0.9,
        "sample": "full" if i % 2 else "escalation",
        "provenance": "teacher",
        "teacher_version": "t1",
    }
    return ExampleRow(**(fields | changes))


def audit(i: int, student: str = "s1") -> AuditRow:
    return AuditRow(
        audit_id=f"audit-{i}",
        time=at(i),
        tenant="default",
        task="a",
        request_id=f"r{i}",
        input=f"Zebra sentence {i}!",
        student_id=student,
        artefact_sha256="f" * 64,
        stage="shadow",
        pi=1.0,
        threshold=0.5,
        would_serve=True,
        agrees=True,
        served_by="teacher",
        policy=False,
        teacher_output="yes",
        teacher_version="t1",
        teacher_latency_ms=9.0,
    )


def entry(i: int, task: str = "a") -> LedgerRow:
    return LedgerRow(f"{task}-{i}", at(i), "default", task, "request", f"r{i}", 0.001, 0.002, served_by="student")


def route(version: int, task: str = "a") -> RouteRow:
    event = RouteChanged(
        id=f"{task}-{version}",
        time=at(version),
        task=task,
        version=version,
        stage="teacher",
        reason="x",
        changed_by="t",
        cause_id="c",
    )
    return RouteRow(event.id, event.time, "default", task, version, event.stage, event.model_dump_json())
