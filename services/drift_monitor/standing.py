"""Who is live on a task, and whether an alarm is open: folded from `route.changed` and the alarms raised. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict

from stillhouse.events import DriftCleared, DriftDetected, InferenceAudited, RouteChanged, follow_id


class Standing(BaseModel):
    """One task, as far as drift is concerned. `traceparent` continues the trace of the live student's life."""

    model_config = ConfigDict(frozen=True)

    version: int = 0
    time: AwareDatetime = datetime.min.replace(tzinfo=UTC)
    live: str | None = None
    since: AwareDatetime | None = None  # when that student went live
    audit_pi: float | None = None  # where the route asks for more audits than the task
    alarmed: str | None = None  # the student whose alarm is not cleared
    traceparent: str | None = None


def is_news(standing: Standing, route: RouteChanged) -> bool:
    """Whether `route` is later than what is known. Version 1 again, later, is a controller that began anew."""
    return route.version > standing.version or (route.version == 1 and route.time > standing.time)


def routed(standing: Standing, route: RouteChanged, traceparent: str | None = None) -> Standing:
    """The standing under `route`; an older route changes nothing. An alarm is over when another student is live."""
    if not is_news(standing, route):
        return standing
    live = route.live.student_id if route.live else None
    return Standing(
        version=route.version,
        time=route.time,
        live=live,
        since=route.live.since if route.live else None,
        audit_pi=route.audit_pi,
        alarmed=None if live not in (None, standing.alarmed) else standing.alarmed,
        traceparent=traceparent if live != standing.live else standing.traceparent,
    )


def alarmed(standing: Standing, student_id: str) -> Standing:
    """The standing after an alarm about `student_id`; where another one is live already, it is over at once."""
    if standing.live not in (None, student_id):
        return standing
    return standing.model_copy(update={"alarmed": student_id})


def cleared(standing: Standing, route: RouteChanged) -> DriftCleared | None:
    """What `route` says about the open alarm: over, when it shows another student live."""
    live = route.live.student_id if route.live else None
    if not is_news(standing, route) or standing.alarmed is None or live in (None, standing.alarmed):
        return None
    return DriftCleared(
        id=follow_id(route.id, DriftCleared.TYPE, route.task_key),
        tenant=route.tenant,
        task=route.task,
        student_id=live,
        previous_student_id=standing.alarmed,
    )


def concerns(standing: Standing, audit: InferenceAudited) -> bool:
    """Whether a live-stage audit is about the student that serves now.

    A router may audit under a route that is not known here yet; what comes late from an earlier route does not count.
    """
    if audit.student_id == standing.alarmed:
        return False
    return audit.student_id == standing.live or audit.route_version > standing.version


def rebuild(history: Iterable[RouteChanged]) -> Standing:
    """The standing after a task's route history: an alarm is read off the route that it changed."""
    standing = Standing()
    for route in sorted(history, key=lambda route: (route.time, route.version)):
        before = standing.live
        standing = routed(standing, route)
        if route.changed_by == DriftDetected.TYPE and before is not None and before != standing.live:
            standing = alarmed(standing, before)
    return standing
