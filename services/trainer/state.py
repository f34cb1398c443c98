"""What the trainer knows of one task, folded from the control events. Pure: the same events give the same state."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict

from services.trainer.remedy import remedy_for
from stillhouse.events import (
    DriftDetected,
    GateDecided,
    RouteChanged,
    StudentTrained,
    TrainingFailed,
    TrainingRequested,
)
from stillhouse.tasks import Task

FIRST_CAUSE: Final = "first"
_REMEMBERED: Final = 300  # event ids kept to recognise what is delivered again

_FROM_THE_BOTTOM: Final[dict[str, Any]] = {"rung": 0, "changes": {}, "variants": 0, "climbing": False, "why": ""}

Input = DriftDetected | GateDecided | RouteChanged | StudentTrained | TrainingFailed | TrainingRequested


class Forced(BaseModel):
    """Somebody asked for a student whatever the policy says."""

    model_config = ConfigDict(frozen=True)

    cause_id: str
    architecture: str | None = None


class TaskState(BaseModel):
    """One task: who serves, what runs, and since when examples count as new."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    live: str | None = None
    candidate: str | None = None
    pinned: bool = False
    route_version: int = 0
    job_id: str | None = None  # the training job that is queued or runs
    judging: str | None = None  # the trained student whose gates are open
    judging_rung: int = 0
    judging_changes: dict[str, Any] = {}
    judging_next_cpu_s: float | None = None  # what its job thinks that the next rung would take
    live_rung: int = 0
    live_next_cpu_s: float | None = None
    rung: int = 0  # the next rung of the ladder
    changes: dict[str, Any] = {}  # to what the task file says of that rung
    variants: int = 0  # versions of that rung made so far
    climbing: bool = False  # a candidate failed its gate: try the next one on the data at hand
    why: str = ""  # this one is the next
    short_lives: int = 0  # students in a row that drifted before they had proved to be stable
    drifted: bool = False
    changed_at: AwareDatetime | None = None  # the last drift alarm: what was recorded before it is replayed in part
    since: AwareDatetime | None = None  # only later examples are new; None: no student has been tried
    cause_id: str = FIRST_CAUSE  # what the next job follows from
    forced: Forced | None = None
    announced: str = ""  # the last strategy and reason that were published
    announcements: int = 0  # how many were: a decision that is taken again is another one
    seen: tuple[str, ...] = ()


def fold(state: TaskState, event: Input, task: Task) -> TaskState:
    """The state after `event`; one that was folded before changes nothing."""
    if event.id in state.seen:
        return state
    match event:
        case DriftDetected():
            state = _drifted(state, event, task)
        case GateDecided():
            state = _judged(state, event, task)
        case RouteChanged():
            state = _routed(state, event)
        case StudentTrained():
            judging = {
                "judging": event.student_id,
                "judging_rung": event.rung,
                "judging_changes": event.changes,
                "judging_next_cpu_s": event.metrics.get("next_rung_cpu_s"),
            }
            state = state.model_copy(update={**judging, "job_id": None, "climbing": False})
        case TrainingFailed():
            state = _start_over(state, event.time, event.job_id).model_copy(update={"job_id": None})
        case TrainingRequested():
            state = state.model_copy(update={"forced": Forced(cause_id=event.id, architecture=event.architecture)})
    return state.model_copy(update={"seen": (*state.seen, event.id)[-_REMEMBERED:]})


def _drifted(state: TaskState, event: DriftDetected, task: Task) -> TaskState:
    if state.live is not None and state.live != event.student_id:
        return state  # an alarm about a predecessor
    # A student trained before the alarm learnt what is no longer true: its gates no longer hold up a new one.
    short_lives = state.short_lives + 1 if event.audits < task.drift.stable_after else 0
    return _start_over(state, event.time, event.id).model_copy(
        update={"drifted": True, "live": None, "short_lives": short_lives, "changed_at": event.time}
    )


def _judged(state: TaskState, event: GateDecided, task: Task) -> TaskState:
    turned_away = event.verdict == "failed" or (event.verdict == "undecided" and event.final)
    if not turned_away or event.student_id != state.judging:
        return state
    # The task file may have lost the rung since.
    rung = min(state.judging_rung, len(task.students) - 1)
    remedy = remedy_for(task, rung, state.judging_changes, state.variants, event)
    if remedy is None:
        return _start_over(state, event.time, event.id)
    return state.model_copy(
        update={
            "judging": None,
            "rung": remedy.rung,
            "changes": remedy.changes,
            "variants": remedy.variants,
            "why": remedy.why,
            "climbing": True,
            "cause_id": event.id,
            "since": event.time,
        }
    )


def _routed(state: TaskState, event: RouteChanged) -> TaskState:
    if event.version <= state.route_version and event.version != 1:
        return state
    live = event.live.student_id if event.live else None
    candidate = event.candidate.student_id if event.candidate else None
    lost_live = state.live is not None and live is None
    state = state.model_copy(
        update={"live": live, "candidate": candidate, "pinned": event.pinned, "route_version": event.version}
    )
    if live is not None and live == state.judging:
        took = {"live_rung": state.judging_rung, "live_next_cpu_s": state.judging_next_cpu_s}
        return state.model_copy(update={**_FROM_THE_BOTTOM, **took, "judging": None, "drifted": False})
    if state.judging is not None and state.judging in event.retired:
        return _start_over(state, event.time, event.id)
    if lost_live and not state.drifted:
        return _start_over(state, event.time, event.id)  # an operator took it out
    return state


def _start_over(state: TaskState, at: datetime, cause_id: str) -> TaskState:
    """Back to the cheapest rung, with examples newer than `at`."""
    since = max(at, state.since) if state.since else at
    return state.model_copy(update={**_FROM_THE_BOTTOM, "judging": None, "since": since, "cause_id": cause_id})
