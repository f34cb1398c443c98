"""Who is asked about a request, decided before anybody is: pure, and the same whenever it is decided again.

Audits are drawn before routing, with the same probability for every request, so that whatever a student is good or bad
at is drawn in its true share. The draw is a hash of the request id and the student id: uniform, independent of the
text, and repeated exactly when a record is read again after a crash.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from stillhouse.events import InferenceRequested, Reason, RouteChanged, Stage, StudentRoute
from stillhouse.tasks import Task


@dataclass(frozen=True, slots=True)
class Audit:
    """A student whose answer to this request is compared with the teacher's, and the probability of that."""

    student: StudentRoute
    stage: Literal["shadow", "canary", "live"]
    pi: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with one request.

    `serving` answers if it is confident enough, the teacher otherwise; None: the teacher, for `reason`.
    """

    reason: Reason
    stage: Stage = "teacher"
    serving: StudentRoute | None = None
    audits: tuple[Audit, ...] = ()
    policy: str | None = None


def plan(request: InferenceRequested, task: Task, route: RouteChanged | None, rule: str | None) -> Plan:
    """The plan for `request`; `rule` is the always-escalate rule that its text matches, if one does."""
    if task.criticality == "high":
        return Plan("criticality")
    stage: Stage = route.stage if route is not None else "teacher"
    if request.pin == "teacher" or request.purpose != "serve":
        return Plan("pinned", stage)
    if route is None:
        return Plan("policy" if rule else "no_student", stage, policy=rule)
    audits = _audits(request, task, route)
    if rule is not None:
        # Part of all requests, so part of the sample; no student sees it.
        return Plan("policy", stage, None, audits, rule)
    candidate = route.candidate
    if candidate is not None and route.candidate_stage == "canary":
        if draw(request.id, candidate.student_id, "canary") < task.gate.canary_share:
            return Plan("student", stage, candidate, audits)
        if route.live is None:
            return Plan("canary_holdout", stage, None, audits)
    if route.live is not None:
        return Plan("student", stage, route.live, audits)
    return Plan("shadow" if candidate is not None else "no_student", stage, None, audits)


def draw(request_id: str, student_id: str, purpose: str) -> float:
    """A uniform number in [0, 1) that belongs to these three and to nothing else about the request."""
    digest = hashlib.sha256(f"{purpose}\x00{student_id}\x00{request_id}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _audits(request: InferenceRequested, task: Task, route: RouteChanged) -> tuple[Audit, ...]:
    audits: list[Audit] = []
    if route.candidate is not None and route.candidate_stage is not None:
        audits.append(Audit(route.candidate, route.candidate_stage, 1.0))
    if route.live is not None:
        pi = max(task.audit.pi, route.audit_pi or 0.0)
        if draw(request.id, route.live.student_id, "audit") < pi:
            audits.append(Audit(route.live, "live", pi))
    return tuple(audits)
