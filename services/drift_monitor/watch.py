"""The test of one live student: what is kept of its audits, and what an alarm says. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from stillhouse.events import DriftDetected, InferenceAudited, follow_id
from stillhouse.quality.binomial import clopper_pearson
from stillhouse.quality.edetector import ErrorDetector
from stillhouse.tasks import Task

EXAMPLES: Final = 50  # request ids that an alarm names


class Watch(BaseModel):
    """Audits of a live student: the detector's state, and the most recent ones as (request id, loss)."""

    model_config = ConfigDict(frozen=True)

    detector: dict[str, Any]
    recent: tuple[tuple[str, bool], ...] = ()
    announced: bool = False

    @classmethod
    def start(cls, task: Task) -> Watch:
        """No audits yet, under the promise that the task makes now."""
        return cls(detector=ErrorDetector(task.gate.epsilon, task.drift.average_run_length).to_dict())

    @property
    def test(self) -> ErrorDetector:
        """The detector; a new object each time."""
        return ErrorDetector.from_dict(self.detector)


def count(state: Watch, audits: Iterable[tuple[str, bool]], window: int) -> Watch:
    """Count audits, as (request id, loss), in order; after an alarm the test is over and counts nothing more."""
    test, recent = state.test, deque(state.recent, window)
    for request_id, loss in audits:
        if test.alarm:
            break
        test.update(loss)
        recent.append((request_id, loss))
    return state.model_copy(update={"detector": test.to_dict(), "recent": tuple(recent)})


def alarm(state: Watch, audit: InferenceAudited) -> DriftDetected:
    """The evidence, after an alarm. `audit` names task and student; a student has one alarm in its life, and one id.

    The interval (Clopper-Pearson, 95 %) describes the most recent audits; what decided is the detector.
    """
    test = state.test
    losses = [request_id for request_id, loss in state.recent if loss]
    n = len(state.recent)
    lower, upper = clopper_pearson(n - len(losses), n)
    return DriftDetected(
        id=follow_id(audit.student_id, DriftDetected.TYPE, audit.task_key),
        tenant=audit.tenant,
        task=audit.task,
        student_id=audit.student_id,
        statistic=test.statistic,
        alarm_level=test.level,
        audits=test.n,
        estimate=(n - len(losses)) / n,
        lower=lower,
        upper=upper,
        window=n,
        example_ids=losses[::-1][:EXAMPLES],
    )
