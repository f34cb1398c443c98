"""The route controller's decisions: what a verdict, an alarm or an operator does to a task's route. Pure."""

from __future__ import annotations

from stillhouse.events import (
    AuditRequested,
    DriftDetected,
    GateDecided,
    RouteChanged,
    RouteRequested,
    Stage,
    StudentRoute,
    ThresholdRecalibrated,
    follow_id,
)
from stillhouse.tasks import Task

REMEMBERED = 50  # retired students, and operators' orders, that a route names

Control = GateDecided | DriftDetected | RouteRequested | AuditRequested | ThresholdRecalibrated


def decide(route: RouteChanged | None, event: Control, task: Task) -> RouteChanged | None:
    """The route after `event`; None: it changes nothing (it came late, again, or about another student)."""
    before = route or _first(task, event)
    match event:
        case GateDecided():
            after = _judged(before, event, task)
        case DriftDetected():
            after = _drifted(before, event)
        case RouteRequested():
            after = _requested(before, event)
        case AuditRequested():
            after = _audited(before, event)
        case ThresholdRecalibrated():
            after = _recalibrated(before, event)
    if after is None:
        return None
    stage: Stage = "live" if after.live else (after.candidate_stage or "teacher")
    return after.model_copy(
        update={
            "id": follow_id(event.id, RouteChanged.TYPE, task.key),
            "time": max(event.time, before.time),
            "version": before.version + 1 if route is not None else 1,
            "stage": stage,
            "retired": after.retired[:REMEMBERED],
            "cause_id": event.id,
        }
    )


def _first(task: Task, event: Control) -> RouteChanged:
    return RouteChanged(
        tenant=task.tenant,
        task=task.name,
        time=event.time,
        version=1,
        stage="teacher",
        reason="",
        changed_by="",
        cause_id=event.id,
    )


def _judged(route: RouteChanged, event: GateDecided, task: Task) -> RouteChanged | None:
    if event.verdict == "passed":
        match event.stage:
            case "offline":
                return _enter(route, event, task)
            case "shadow":
                if _candidate(route) != event.student_id or route.candidate_stage != "shadow":
                    return None
                return _changed(route, event, "the shadow gate passed", candidate_stage="canary")
            case "canary":
                if _candidate(route) != event.student_id or route.candidate_stage != "canary":
                    return None
                return _promote(route, event, "the canary gate passed")
    if event.verdict == "undecided" and not event.final:
        return None
    if _candidate(route) != event.student_id:
        return None
    verdict = "failed" if event.verdict == "failed" else "stayed undecided"
    return _changed(
        route,
        event,
        f"the {event.stage} gate {verdict}: {event.reason}",
        candidate=None,
        candidate_stage=None,
        retired=[event.student_id, *route.retired],
    )


def _enter(route: RouteChanged, event: GateDecided, task: Task) -> RouteChanged | None:
    """A gated student enters shadow; one that was taken out, or learnt before an alarm, does not come back."""
    student = event.student
    if task.criticality == "high" or route.pinned or student is None or event.threshold is None:
        return None
    if event.student_id in (*route.retired, _candidate(route), route.live.student_id if route.live else None):
        return None
    if route.changed_by == DriftDetected.TYPE and student.dataset.cutoff < route.time:
        return None
    older = [route.candidate.student_id] if route.candidate else []
    entered = StudentRoute(
        student_id=event.student_id,
        architecture=student.architecture,
        artefact=student.artefact,
        threshold=event.threshold,
        since=event.time,
    )
    return _changed(
        route,
        event,
        "the offline gate passed",
        candidate=entered,
        candidate_stage="shadow",
        retired=[*older, *route.retired],
    )


def _promote(route: RouteChanged, event: GateDecided | RouteRequested, reason: str) -> RouteChanged:
    older = [route.live.student_id] if route.live else []
    assert route.candidate is not None
    return _changed(
        route,
        event,
        reason,
        live=route.candidate.model_copy(update={"since": event.time}),
        previous=route.live,
        audit_pi=None,
        candidate=None,
        candidate_stage=None,
        retired=[*older, *route.retired],
    )


def _drifted(route: RouteChanged, event: DriftDetected) -> RouteChanged | None:
    if route.live is None or route.live.student_id != event.student_id:
        return None
    # The alarm is about the traffic: a candidate that learnt before it is no better.
    return _all_out(route, event, "the live student drifted from its teacher")


def _requested(route: RouteChanged, event: RouteRequested) -> RouteChanged | None:
    if event.id in route.orders:
        return None  # delivered again: what it asked for may mean something else by now
    reason = f"{event.requested_by}: {event.reason}"
    if event.action == "unpin":
        return _changed(route, event, reason, pinned=False) if route.pinned else None
    if event.action == "promote":
        return _by_hand(route, event, reason)
    if event.action == "rollback":
        return _rolled_back(route, event, reason)
    pin = event.action == "pin_teacher"
    if route.live is None and route.candidate is None and (route.pinned or not pin):
        return None
    out = _all_out(route, event, reason)
    return out.model_copy(update={"pinned": True}) if pin else out


def _by_hand(route: RouteChanged, event: RouteRequested, reason: str) -> RouteChanged | None:
    """The candidate one stage up without that stage's gate, which the reason says for ever."""
    if route.candidate is None:
        return None
    up = "canary" if route.candidate_stage == "shadow" else "live"
    told = f"{reason} (promoted by hand from {route.candidate_stage} to {up}, its gate not passed)"
    if up == "canary":
        return _changed(route, event, told, candidate_stage="canary")
    return _promote(route, event, told)


def _rolled_back(route: RouteChanged, event: RouteRequested, reason: str) -> RouteChanged | None:
    """Everything newer out; the student that was live before this one serves again, where no alarm was raised since."""
    if route.live is None and route.candidate is None:
        return None
    out = _all_out(route, event, reason)
    if route.previous is None:
        return out
    back = route.previous.model_copy(update={"since": event.time})
    retired = [student_id for student_id in out.retired if student_id != back.student_id]
    return out.model_copy(update={"live": back, "retired": retired})


def _all_out(route: RouteChanged, event: Control, reason: str) -> RouteChanged:
    out = [student.student_id for student in (route.live, route.candidate) if student is not None]
    return _changed(
        route,
        event,
        reason,
        live=None,
        candidate=None,
        candidate_stage=None,
        previous=None,
        audit_pi=None,
        retired=[*out, *route.retired],
    )


def _audited(route: RouteChanged, event: AuditRequested) -> RouteChanged | None:
    """Another share of audits, for the whole task: what is audited never depends on the request."""
    if route.live is None or route.live.student_id != event.student_id or route.audit_pi == event.pi:
        return None
    return _changed(route, event, event.reason, audit_pi=event.pi)


def _recalibrated(route: RouteChanged, event: ThresholdRecalibrated) -> RouteChanged | None:
    """Another threshold for the live student, each round at most once; one that drifted is live no more."""
    live = route.live
    if live is None or live.student_id != event.student_id or event.round <= live.recalibrated or not event.moved:
        return None
    update = {
        "threshold": event.threshold,
        "group_thresholds": event.group_thresholds,
        "unproven_threshold": event.unproven_threshold,
        "longest": event.longest,
        "recalibrated": event.round,
    }
    return _changed(route, event, event.reason, live=live.model_copy(update=update))


def _changed(route: RouteChanged, event: Control, reason: str, **update: object) -> RouteChanged:
    if isinstance(event, RouteRequested):
        update |= {"changed_by": event.requested_by, "orders": [event.id, *route.orders][:REMEMBERED]}
    else:
        update |= {"changed_by": event.TYPE}
    return route.model_copy(update={**update, "reason": reason})


def _candidate(route: RouteChanged) -> str | None:
    return route.candidate.student_id if route.candidate else None
