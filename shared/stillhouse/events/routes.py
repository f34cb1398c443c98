"""Who serves a task: asked for by operators, decided by the one route controller, obeyed by every router."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import AwareDatetime, Field

from stillhouse.events._base import Event, Value
from stillhouse.events.students import ArtefactRef


class RouteRequested(Event):
    """An operator's command to the route controller."""

    TYPE: ClassVar[str] = "route.requested"

    action: Literal["teacher", "pin_teacher", "unpin", "promote", "rollback"] = Field(
        description="`teacher`: take all students out; `pin_teacher`: and let none in; `unpin`: lift that; `promote`: "
        "the candidate one stage up without that stage's gate; `rollback`: back to the student that was live before."
    )
    requested_by: str
    reason: str = Field(min_length=1)


class AuditRequested(Event):
    """The drift monitor asks for another share of audits, for the whole task: on suspicion, or with few requests."""

    TYPE: ClassVar[str] = "audit.requested"

    student_id: str = Field(description="The live student that is to be audited.")
    pi: float | None = Field(default=None, gt=0.0, le=1.0, description="None: the share that the task declares.")
    reason: str


class ThresholdRecalibrated(Event):
    """A round of recalibration on the live student's audits: what threshold they certify, and whether it moves."""

    TYPE: ClassVar[str] = "threshold.recalibrated"

    student_id: str
    round: int = Field(ge=1)
    moved: bool
    threshold: float
    previous_threshold: float
    group_thresholds: dict[str, float] = Field(default_factory=dict)
    unproven_threshold: float | None = None
    longest: int | None = Field(default=None, description="Characters of the longest text that it serves; None: any.")
    n: int = Field(description="Audits of this round.")
    alpha: float = Field(description="Share of the student's alpha spent on this round.")
    reason: str


class StudentRoute(Value):
    """A student as the router needs it."""

    student_id: str
    architecture: str
    artefact: ArtefactRef
    threshold: float
    since: AwareDatetime
    group_thresholds: dict[str, float] = Field(default_factory=dict, description="Instead of `threshold`, by group.")
    unproven_threshold: float | None = Field(
        default=None,
        description="Of groups that have none of their own; above 1 the teacher answers. None: `threshold`.",
    )
    longest: int | None = Field(
        default=None, description="Characters, after redaction, of the longest text that it serves. None: any."
    )
    recalibrated: int = Field(default=0, description="Rounds of recalibration that it has been through.")

    def threshold_for(self, group: str | None) -> float:
        """The confidence from which it serves a request of `group`."""
        if group is None:
            return self.threshold
        return self.group_thresholds.get(
            group, self.threshold if self.unproven_threshold is None else self.unproven_threshold
        )


class RouteChanged(Event):
    """The full routing state of one task; higher versions replace lower ones."""

    TYPE: ClassVar[str] = "route.changed"

    version: int = Field(ge=1)
    stage: Literal["teacher", "shadow", "canary", "live"] = Field(description="Of the student furthest along.")
    live: StudentRoute | None = None
    candidate: StudentRoute | None = None
    candidate_stage: Literal["shadow", "canary"] | None = None
    previous: StudentRoute | None = Field(
        default=None, description="Live before `live`, and no alarm since: what a rollback goes back to."
    )
    pinned: bool = False
    audit_pi: float | None = Field(default=None, description="Share of audits while above the task's own.")
    retired: list[str] = Field(default_factory=list, description="Students that must not come back, newest first.")
    orders: list[str] = Field(default_factory=list, description="Operators' orders carried out, newest first.")
    reason: str
    changed_by: str = Field(description="Event type or operator that caused the change.")
    cause_id: str
