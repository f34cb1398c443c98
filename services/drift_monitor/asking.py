"""The teacher's agreement with itself: which recorded request it is asked again, and what its answer says. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from services.drift_monitor.inputs import InputWatch, Rise, suspect
from stillhouse.events import InferenceCompleted, InferenceRequested, follow_id
from stillhouse.quality import exact
from stillhouse.quality.binomial import clopper_pearson
from stillhouse.quality.exceedance import RiseDetector
from stillhouse.tasks import Task

RUN_LENGTH: Final = 10_000  # mean number of checks to a false suspicion
PENDING: Final = 50  # checks that may be without an answer; older ones are given up


def turn_of(task: Task, now: datetime) -> int | None:
    """The number of the check that is due: so many a day, evenly. None: the task asks for none."""
    if not task.drift.teacher_checks_per_day:
        return None
    return int(now.timestamp() * task.drift.teacher_checks_per_day // 86_400)


def check(task: Task, turn: int, rows: Sequence[Mapping[str, Any]]) -> tuple[InferenceRequested, str] | None:
    """A recorded request for the teacher and what it answered then; the same turn asks the same.

    Texts that something was redacted from are not what the teacher had answered, so they are passed over.
    """
    whole = [row for row in rows if row["provenance"] == "teacher" and not row["redactions"]]
    if not whole:
        return None
    check_id = follow_id(task.key, "teacher.check", str(turn))
    row = whole[int.from_bytes(hashlib.sha256(check_id.encode()).digest()[:8]) % len(whole)]
    asked = InferenceRequested(
        id=check_id, tenant=task.tenant, task=task.name, input=row["input"], purpose="gate", pin="teacher"
    )
    return asked, str(row["output"])


def asked(state: InputWatch, turn: int, pending: tuple[str, str] | None) -> InputWatch:
    """The turn is taken; `pending` is the check's id and the recorded answer, where there is one."""
    waiting = (*state.pending, pending)[-PENDING:] if pending is not None else state.pending
    return state.model_copy(update={"turn": turn, "pending": waiting})


def answered(
    task: Task,
    state: InputWatch,
    events: Sequence[InferenceCompleted],
    same: Callable[[str, str], bool] = exact,
) -> InputWatch:
    """Compare answers with the recorded ones, each once; too many that are not the same raise a suspicion."""
    recorded, rise = dict(state.pending), state.rises.get("teacher", Rise())
    detector = (
        RiseDetector.from_dict(rise.detector) if rise.detector else RiseDetector(0.5, task.gate.epsilon, RUN_LENGTH)
    )
    for event in events:
        before = recorded.pop(event.request_id, None)
        if before is not None and event.teacher is not None:
            detector.update(0.0 if same(before, event.teacher.output) else 1.0)
    if len(recorded) == len(state.pending):
        return state
    rises = state.rises | {"teacher": Rise(detector=detector.to_dict())}
    state = state.model_copy(update={"pending": tuple(recorded.items()), "rises": rises})
    if not detector.alarm:
        return state
    lower, _ = clopper_pearson(detector.exceeded, detector.n)
    note = (
        f"asked again, the teacher differed from {detector.exceeded} of {detector.n} recorded answers "
        f"(at least {lower:.1%}), where {task.gate.epsilon:.0%} may"
    )
    return suspect(state, "teacher", detector.statistic, detector.level, detector.n, note)
