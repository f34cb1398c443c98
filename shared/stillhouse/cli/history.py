"""What is on disk about students and routes: the log forgets (the embedded broker at once), the store does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stillhouse.events import (
    Event,
    GateDecided,
    GateFailed,
    GatePassed,
    GateUndecided,
    RouteChanged,
    StudentTrained,
)

_VERDICTS: dict[str, type[GateDecided]] = {"passed": GatePassed, "failed": GateFailed, "undecided": GateUndecided}


def with_history(events: list[Event], home: Path, topics: tuple[str, ...]) -> list[Event]:
    """`events` of the log, and those of `topics` that only `home` still holds, by their own time. Blocking."""
    known = {event.id for event in events}
    found = [event for event in _stored(home) if event.id not in known and event.TYPE in topics]
    return sorted([*events, *found], key=lambda event: event.time)


def _stored(home: Path) -> list[Event]:
    from stillhouse.store import Store

    store = Store(home / "store")
    students = [student for path in sorted((home / "jobs").glob("*/outcome.json")) if (student := _student(path))]
    events: list[Event] = [*students]
    for key in {student.task_key for student in students} | {route.task_key for route in store.latest_routes()}:
        events += [RouteChanged.model_validate_json(text) for text in store.routes(key).column("event").to_pylist()]
        events += [_verdict(row) for row in store.evaluations(key).to_pylist()]
    return events


def _student(path: Path) -> StudentTrained | None:
    outcome = json.loads(path.read_text(encoding="utf-8"))
    return StudentTrained.model_validate(outcome["event"]) if outcome.get("type") == StudentTrained.TYPE else None


def _verdict(row: dict[str, Any]) -> GateDecided:
    report = json.loads(row.pop("report_json") or "{}")
    fields = {"conditions": report.get("conditions", []), "report_uri": report.get("report_uri")}
    return _VERDICTS[row["verdict"]].model_validate({**row, **fields, "id": row["evaluation_id"]})
