"""What became of every student, told from the events about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from stillhouse.events import (
    Event,
    GateDecided,
    GateFailed,
    GatePassed,
    GateUndecided,
    RouteChanged,
    StudentRoute,
    StudentTrained,
)

TOPICS = (StudentTrained.TYPE, GatePassed.TYPE, GateFailed.TYPE, GateUndecided.TYPE, RouteChanged.TYPE)


@dataclass(slots=True)
class Life:
    """A student: `trained`, `gated`, `turned away`, `undecided`, `shadow`, `canary`, `live` or `retired`."""

    student_id: str
    task_key: str
    architecture: str
    state: str = "trained"
    bytes: int | None = None
    trained_at: datetime | None = None
    live_at: datetime | None = None
    retired_at: datetime | None = None
    threshold: float | None = None
    dataset: str | None = None
    trained_on_erased: datetime | None = None
    verdicts: dict[str, GateDecided] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "student_id": self.student_id,
            "task": self.task_key,
            "architecture": self.architecture,
            "state": self.state,
            "bytes": self.bytes,
            "trained_at": self.trained_at,
            "live_at": self.live_at,
            "retired_at": self.retired_at,
            "threshold": self.threshold,
            "trained_on_erased": self.trained_on_erased,
            "verdicts": {stage: decided.verdict for stage, decided in self.verdicts.items()},
        }


def latest_routes(events: Sequence[Event]) -> dict[str, RouteChanged]:
    """The highest version of every task's route, by `<tenant>/<task>`."""
    routes: dict[str, RouteChanged] = {}
    for event in events:
        if isinstance(event, RouteChanged):
            known = routes.get(event.task_key)
            if known is None or event.version > known.version:
                routes[event.task_key] = event
    return dict(sorted(routes.items()))


def lives(events: Sequence[Event]) -> list[Life]:
    """Every student that `events` (in the order of their times) speak of, oldest first."""
    found: dict[str, Life] = {}

    def of(student_id: str, event: Event, architecture: str = "") -> Life:
        life = found.setdefault(student_id, Life(student_id, event.task_key, architecture))
        life.architecture = life.architecture or architecture
        return life

    def born(trained: StudentTrained) -> Life:
        life = of(trained.student_id, trained, trained.architecture)
        life.bytes, life.trained_at = trained.artefact.size, trained.time
        life.dataset = trained.dataset.version
        return life

    for event in events:
        match event:
            case StudentTrained():
                born(event)
            case GateDecided():
                life = born(event.student) if event.student is not None else of(event.student_id, event)
                life.verdicts[event.stage] = event
                life.threshold = event.threshold if event.threshold is not None else life.threshold
                if life.state not in {"shadow", "canary", "live", "retired"}:
                    life.state = _after(event)
            case RouteChanged():
                _routed(event, found, of)
    return list(found.values())


def mark_erased(found: Sequence[Life], home: Path) -> list[Life]:
    """The students, each with the time of the last erasure that took something out of its dataset. Blocking."""
    from stillhouse.store.datasets import erased_datasets

    erased = erased_datasets(home / "datasets")
    for life in found:
        life.trained_on_erased = erased.get(life.dataset or "")
    return list(found)


def _after(decided: GateDecided) -> str:
    if decided.verdict == "passed":
        return "gated"
    if decided.verdict == "failed":
        return "turned away"
    return "undecided" if decided.final else "being judged"


def _routed(route: RouteChanged, found: dict[str, Life], of: Callable[..., Life]) -> None:
    on_route: dict[str, tuple[StudentRoute, str]] = {}
    if route.candidate is not None and route.candidate_stage is not None:
        on_route[route.candidate.student_id] = (route.candidate, route.candidate_stage)
    if route.live is not None:
        on_route[route.live.student_id] = (route.live, "live")
    for student_id, (student, state) in on_route.items():
        life = of(student_id, route, student.architecture)
        life.state, life.threshold, life.retired_at = state, student.threshold, None
        life.bytes = life.bytes or student.artefact.size
        if state == "live" and life.live_at is None:
            life.live_at = student.since
    for life in found.values():
        gone = life.task_key == route.task_key and life.student_id not in on_route
        if gone and (life.state in {"shadow", "canary", "live"} or life.student_id in route.retired):
            life.state, life.retired_at = "retired", life.retired_at or route.time
