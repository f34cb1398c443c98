"""The topic catalogue: every topic's name, key, partitions and cleanup, and which service takes and gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from stillhouse.events._base import Event
from stillhouse.events.examples import CostIncurred, ExampleRecorded
from stillhouse.events.inference import InferenceAudited, InferenceCompleted, InferenceParked, InferenceRequested
from stillhouse.events.reviews import ExampleReviewed, ReviewRequested, ReviewResolved
from stillhouse.events.routes import AuditRequested, RouteChanged, RouteRequested, ThresholdRecalibrated
from stillhouse.events.students import (
    BudgetEvaluated,
    DriftCleared,
    DriftDetected,
    DriftSuspected,
    GateFailed,
    GatePassed,
    GateUndecided,
    StudentEvaluated,
    StudentTrained,
    TrainingFailed,
    TrainingRequested,
    TrainingStarted,
)

DAY_MS: Final = 24 * 60 * 60 * 1000
MAX_RECORD_BYTES: Final = 1_000_000
SERVICES: Final = ("router", "observer", "trainer", "validator", "drift-monitor")


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `key` says what the record key holds."""

    name: str
    key: str
    partitions: int
    cleanup: Literal["delete", "compact"] = "delete"
    retention_ms: int = DAY_MS
    event: type[Event] | None = None
    taken_by: tuple[str, ...] = ()
    given_by: tuple[str, ...] = ()


def _by_request(event: type[Event], days: int, given: tuple[str, ...], taken: tuple[str, ...]) -> Topic:
    return Topic(event.TYPE, "request id", 12, "delete", days * DAY_MS, event, taken, given)


def _control(event: type[Event], given: tuple[str, ...], taken: tuple[str, ...]) -> Topic:
    return Topic(event.TYPE, "<tenant>/<task>", 1, "delete", 365 * DAY_MS, event, taken, given)


CATALOGUE: Final[tuple[Topic, ...]] = (
    _by_request(InferenceRequested, 1, ("client", "cli", "router", "drift-monitor"), ("router",)),
    _by_request(InferenceParked, 32, ("router",), ("router",)),
    _by_request(InferenceCompleted, 1, ("router", "client"), ("client", "observer", "drift-monitor")),
    Topic(
        InferenceAudited.TYPE,
        "<tenant>/<task>",
        12,
        "delete",
        7 * DAY_MS,
        InferenceAudited,
        ("observer", "validator", "drift-monitor"),
        ("router",),
    ),
    Topic(ExampleRecorded.TYPE, "example id", 12, "delete", 30 * DAY_MS, ExampleRecorded, ("trainer",), ("observer",)),
    Topic(ExampleReviewed.TYPE, "example id", 12, "delete", 30 * DAY_MS, ExampleReviewed, ("observer",), ("cli",)),
    Topic(
        CostIncurred.TYPE,
        "cause id",
        12,
        "delete",
        30 * DAY_MS,
        CostIncurred,
        ("observer", "trainer"),
        ("trainer", "validator", "observer", "router"),
    ),
    _control(TrainingRequested, ("cli",), ("trainer",)),
    _control(TrainingStarted, ("trainer",), ()),
    _control(TrainingFailed, ("trainer",), ("observer",)),
    _control(BudgetEvaluated, ("trainer",), ("observer",)),
    _control(StudentTrained, ("trainer",), ("validator", "observer")),
    _control(StudentEvaluated, ("validator",), ()),
    _control(GatePassed, ("validator",), ("router",)),
    _control(GateFailed, ("validator",), ("router", "trainer")),
    _control(GateUndecided, ("validator",), ("router", "trainer")),
    _control(ReviewRequested, ("validator",), ()),
    _control(ReviewResolved, ("cli",), ("validator",)),
    _control(DriftDetected, ("drift-monitor",), ("router", "trainer", "observer", "client")),
    _control(DriftSuspected, ("drift-monitor",), ("client",)),
    _control(DriftCleared, ("drift-monitor",), ("client",)),
    _control(AuditRequested, ("drift-monitor",), ("router",)),
    _control(ThresholdRecalibrated, ("validator",), ("router",)),
    _control(RouteRequested, ("cli",), ("router",)),
    Topic(
        RouteChanged.TYPE,
        "<tenant>/<task>",
        1,
        "compact",
        -1,
        RouteChanged,
        ("router", "observer", "trainer", "validator", "drift-monitor", "client"),
        ("router",),
    ),
    *(
        Topic(f"dlq.{service}", "original key", 1, "delete", 7 * DAY_MS, None, ("cli",), (service,))
        for service in SERVICES
    ),
)

BY_NAME: Final = {topic.name: topic for topic in CATALOGUE}
BY_TYPE: Final = {topic.event.cloudevent_type(): topic.event for topic in CATALOGUE if topic.event is not None}


def key_of(event: Event) -> str:
    """The record key that the catalogue prescribes for `event`."""
    return event.task_key if BY_NAME[event.TYPE].key == "<tenant>/<task>" else event.subject
