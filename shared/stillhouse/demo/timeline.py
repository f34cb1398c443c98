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


def while_live(state: State) -> dict[str, Any]:
    """Requests sent while a student was live: how many it answered, and what they cost, their audits included.

    USD per 1,000, beside the teacher's list price. What collecting, training and gates cost is not in it.
    """
    since: list[tuple[datetime, bool]] = [
        (state.routes[version].time, state.routes[version].live is not None) for version in sorted(state.routes)
    ]
    times = [time for time, _ in since]

    def live(at: datetime) -> bool:
        place = bisect_right(times, at)
        return place > 0 and since[place - 1][1]

    served = ((key, a) for key, a in state.answers.items() if a.purpose == "serve" and a.served_by is not None)
    found = {key: answer for key, answer in served if live(answer.requested_at)}
    audits = sum(audit.overhead_usd for audit in state.audits.values() if audit.request_id in found)
    count = len(found)
    return {
        "requests": count,
        "by_student": sum(answer.served_by == "student" for answer in found.values()),
        "teacher_usd_per_1k": 1000 * sum(a.teacher_cost_usd for a in found.values()) / count if count else None,
        "usd_per_1k": 1000 * (sum(a.cost_usd for a in found.values()) + audits) / count if count else None,
    }


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
