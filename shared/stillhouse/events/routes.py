"""Who serves a task: asked for by operators, decided by the one route controller, obeyed by every router."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import AwareDatetime, Field

from stillhouse.events._base import Event, Value
from stillhouse.events.students import ArtefactRef


class RouteRequested(Event):
    """An operator's command to the route controller."""

    TYPE: ClassVar[str] = "route.requested"

    action: Literal["teacher", "pin_teacher", "unpin"] = Field(
        description="`teacher`: take all students out; `pin_teacher`: and let none in; `unpin`: lift that."
    )
    requested_by: str
    reason: str = Field(min_length=1)


class StudentRoute(Value):
    """A student as the router needs it."""

    student_id: str
    architecture: str
    artefact: ArtefactRef
    threshold: float
    since: AwareDatetime


class RouteChanged(Event):
    """The full routing state of one task; higher versions replace lower ones."""

    TYPE: ClassVar[str] = "route.changed"

    version: int = Field(ge=1)
    stage: Literal["teacher", "shadow", "canary", "live"] = Field(description="Of the student furthest along.")
    live: StudentRoute | None = None
    candidate: StudentRoute | None = None
    candidate_stage: Literal["shadow", "canary"] | None = None
    pinned: bool = False
    retired: list[str] = Field(default_factory=list, description="Students that must not come back, newest first.")
    reason: str
    changed_by: str = Field(description="Event type or operator that caused the change.")
    cause_id: str
