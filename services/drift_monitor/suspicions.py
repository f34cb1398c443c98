"""What is suspected of a live student's surroundings, and how much is audited meanwhile. Pure."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from stillhouse.events import AuditRequested, DriftCleared, DriftSuspected, SuspicionKind, follow_id
from stillhouse.tasks import Task

# What these are about is seen by everybody, and does not make a single answer wrong: nothing more to audit.
SAID_ONLY: Final = frozenset({"latency", "cost"})
# The promise was made about another teacher: nothing is known until audits tell.
EVERYTHING: Final = frozenset({"teacher_version"})


class Suspicion(BaseModel):
    """One suspicion, numbered among the student's. `since`: audits counted when it was raised."""

    model_config = ConfigDict(frozen=True)

    kind: SuspicionKind
    number: int
    statistic: float
    alarm_level: float
    n: int
    note: str
    since: int = 0
    announced: bool = False


def audit_pi(task: Task, kind: SuspicionKind) -> float | None:
    """The share of audits under a suspicion; None where audits cannot tell anything about it."""
    if kind in SAID_ONLY:
        return None
    return max(task.audit.pi, 1.0 if kind in EVERYTHING else task.drift.suspected_pi)


def wanted_pi(task: Task, suspicions: tuple[Suspicion, ...], requests_a_day: float | None) -> float | None:
    """The share of audits that everything known asks for; None: the task's own."""
    shares = [audit_pi(task, suspicion.kind) or 0.0 for suspicion in suspicions]
    wanted = max([task.audit.pi, _for_few(task, requests_a_day), *shares])
    return wanted if wanted > task.audit.pi else None


def _for_few(task: Task, requests_a_day: float | None) -> float:
    """The task's own share, doubled until it gives `audit.min_per_day`: in steps, not after every hour's requests."""
    share = task.audit.pi
    if requests_a_day is None:
        return share
    while share < 1.0 and share * requests_a_day < task.audit.min_per_day:
        share = min(1.0, 2 * share)
    return share


def over(task: Task, suspicion: Suspicion, audits: int) -> bool:
    """Whether the live student has shown since then that nothing was lost: `audits` were counted, and no alarm."""
    return suspicion.kind not in SAID_ONLY and audits - suspicion.since >= task.drift.clear_after


def suspected(task: Task, student_id: str, suspicion: Suspicion) -> DriftSuspected:
    """What is said about a suspicion; said again, it has the same id."""
    return DriftSuspected(
        id=_id(student_id, DriftSuspected.TYPE, suspicion),
        tenant=task.tenant,
        task=task.name,
        student_id=student_id,
        kind=suspicion.kind,
        statistic=suspicion.statistic,
        alarm_level=suspicion.alarm_level,
        n=suspicion.n,
        note=suspicion.note,
        audit_pi=audit_pi(task, suspicion.kind),
    )


def dismissed(task: Task, student_id: str, suspicion: Suspicion) -> DriftCleared:
    """The end of a suspicion that audits did not bear out."""
    return DriftCleared(
        id=_id(student_id, DriftCleared.TYPE, suspicion),
        tenant=task.tenant,
        task=task.name,
        student_id=student_id,
        previous_student_id=student_id,
        suspicion=suspicion.kind,
    )


def audits_wanted(
    task: Task, student_id: str, pi: float | None, suspicions: tuple[Suspicion, ...], number: int
) -> AuditRequested:
    """The request for another share of audits, the student's `number`-th."""
    asking = [suspicion.kind.replace("_", " ") for suspicion in suspicions if suspicion.kind not in SAID_ONLY]
    if pi is None:
        reason = f"audits are back at {task.audit.pi:.0%} of all requests"
    elif asking:
        reason = f"{', '.join(dict.fromkeys(asking))} suspected to have changed: audits at {pi:.0%} of all requests"
    else:
        reason = f"few requests: audits at {pi:.0%} of them, for {task.audit.min_per_day} a day"
    return AuditRequested(
        id=follow_id(student_id, AuditRequested.TYPE, f"{task.key}/{number}/{pi}"),
        tenant=task.tenant,
        task=task.name,
        student_id=student_id,
        pi=pi,
        reason=reason,
    )


def _id(student_id: str, event_type: str, suspicion: Suspicion) -> str:
    return follow_id(student_id, event_type, f"{suspicion.kind}/{suspicion.number}")
