"""What the trainer knows of one task, folded from the control events. Pure: the same events give the same state."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict

from stillhouse.events import (
    DriftDetected,
    GateDecided,
    RouteChanged,
    StudentTrained,
    TrainingFailed,
    TrainingRequested,
)

FIRST_CAUSE: Final = "first"
_REMEMBERED: Final = 300  # event ids kept to recognise what is delivered again

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
    rung: int = 0  # the next rung of the ladder
    climbing: bool = False  # the rung below failed its gate: try the next one on the data at hand
    drifted: bool = False
    since: AwareDatetime | None = None  # only later examples are new; None: no student has been tried
    cause_id: str = FIRST_CAUSE  # what the next job follows from
    forced: Forced | None = None
    announced: str = ""  # the last strategy and reason that were published
    announcements: int = 0  # how many were: a decision that is taken again is another one
    seen: tuple[str, ...] = ()


def fold(state: TaskState, event: Input, rungs: int) -> TaskState:
    """The state after `event`; one that was folded before changes nothing. `rungs`: length of the ladder."""
    if event.id in state.seen:
        return state
    match event:
        case DriftDetected():
            state = _drifted(state, event)
        case GateDecided():
            state = _judged(state, event, rungs)
        case RouteChanged():
            state = _routed(state, event)
        case StudentTrained():
            state = state.model_copy(
                update={"job_id": None, "judging": event.student_id, "judging_rung": event.rung, "climbing": False}
            )
        case TrainingFailed():
            state = _start_over(state, event.time, event.job_id).model_copy(update={"job_id": None})
        case TrainingRequested():
            state = state.model_copy(update={"forced": Forced(cause_id=event.id, architecture=event.architecture)})
    return state.model_copy(update={"seen": (*state.seen, event.id)[-_REMEMBERED:]})


def _drifted(state: TaskState, event: DriftDetected) -> TaskState:
    if state.live is not None and state.live != event.student_id:
        return state  # an alarm about a predecessor
    # A student trained before the alarm learnt what is no longer true: its gates no longer hold up a new one.
    return _start_over(state, event.time, event.id).model_copy(update={"drifted": True, "live": None})


def _judged(state: TaskState, event: GateDecided, rungs: int) -> TaskState:
    turned_away = event.verdict == "failed" or (event.verdict == "undecided" and event.final)
    if not turned_away or event.student_id != state.judging:
        return state
    next_rung = state.judging_rung + 1
    if next_rung >= rungs:
        return _start_over(state, event.time, event.id)
    return state.model_copy(
        update={"judging": None, "rung": next_rung, "climbing": True, "cause_id": event.id, "since": event.time}
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
        return state.model_copy(update={"judging": None, "rung": 0, "climbing": False, "drifted": False})
    if state.judging is not None and state.judging in event.retired:
        return _start_over(state, event.time, event.id)
    if lost_live and not state.drifted:
        return _start_over(state, event.time, event.id)  # an operator took it out
    return state


def _start_over(state: TaskState, at: datetime, cause_id: str) -> TaskState:
    """Back to the cheapest rung, with examples newer than `at`."""
    since = max(at, state.since) if state.since else at
    return state.model_copy(
        update={"judging": None, "rung": 0, "climbing": False, "since": since, "cause_id": cause_id}
    )
