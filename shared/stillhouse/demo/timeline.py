"""When each step of the loop was reached, in requests and in seconds; and how often the teacher was paid."""

from __future__ import annotations

from bisect import bisect_right
from datetime import datetime
from typing import Any

from stillhouse.demo.player import Tally
from stillhouse.demo.watcher import State


def timeline(state: State, tally: Tally) -> list[dict[str, Any]]:
    """Steps in order: `what`, `student`, how many requests had been sent, seconds since the first one.

    `what`: `trained`, `offline passed` (or `failed`, and the other stages), `live`, `traffic changed`,
    `drift detected`, `back to teacher`.
    """
    sent = sorted(answer.requested_at for answer in state.answers.values() if answer.purpose == "serve")
    if not sent:
        return []
    found: list[tuple[datetime, str, str | None]] = []
    found += [(trained.time, "trained", trained.student_id) for trained in state.trained.values()]
    decided = (gate for gate in state.gates.values() if gate.final)
    found += [(gate.time, f"{gate.stage} {gate.verdict}", gate.student_id) for gate in decided]
    found += [(drift.time, "drift detected", drift.student_id) for drift in state.drifts.values()]
    before = None
    for version in sorted(state.routes):
        route = state.routes[version]
        serves = route.live.student_id if route.live is not None else None
        if serves != before:
            found.append((route.time, "live", serves) if serves else (route.time, "back to teacher", before))
        before = serves
    if tally.injected_at is not None:
        found.append((tally.injected_at, "traffic changed", None))
    return [
        {
            "what": what,
            "student": student,
            "requests": bisect_right(sent, time),
            "seconds": round((time - sent[0]).total_seconds(), 1),
        }
        for time, what, student in sorted(found, key=lambda step: step[0])
    ]


def teacher_calls(state: State) -> dict[str, int]:
    """Answers that the teacher was asked for, by purpose, and those that it gave for an audit alone."""
    calls = {"serve": 0, "audit": 0, "backfill": 0, "gate": 0}
    for answer in state.answers.values():
        if answer.teacher_cpu_ms is not None:
            calls[answer.purpose] = calls.get(answer.purpose, 0) + 1
    audited = {audit.request_id for audit in state.audits.values()}
    known = (state.answers.get(request_id) for request_id in audited)
    calls["audit"] = sum(answer is not None and answer.teacher_cpu_ms is None for answer in known)
    return calls
