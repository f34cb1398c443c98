"""A student's life and a task's route, told from events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from stillhouse.cli.lives import latest_routes, lives
from stillhouse.events import (
    ArtefactRef,
    DatasetRef,
    GateFailed,
    GatePassed,
    GateUndecided,
    RouteChanged,
    StudentRoute,
    StudentTrained,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
ARTEFACT = ArtefactRef(uri="file:///a", sha256="0" * 64, size=1_000_000)


def at(minutes: int) -> datetime:
    return START + timedelta(minutes=minutes)


def trained(student_id: str, minutes: int) -> StudentTrained:
    return StudentTrained(
        time=at(minutes),
        task="t",
        student_id=student_id,
        job_id="j",
        architecture="hashed_ngrams",
        rung=0,
        artefact=ARTEFACT,
        dataset=DatasetRef(version="v", uri="file:///d", n_train=8, n_select=2, cutoff=START),
        teacher_version="e",
    )


def on_route(student_id: str, minutes: int) -> StudentRoute:
    return StudentRoute(
        student_id=student_id, architecture="hashed_ngrams", artefact=ARTEFACT, threshold=0.8, since=at(minutes)
    )


def routed(version: int, minutes: int, **fields) -> RouteChanged:
    return RouteChanged(
        time=at(minutes),
        task="t",
        version=version,
        reason="because",
        changed_by="gate.passed",
        cause_id="c",
        **({"stage": "teacher"} | fields),
    )


def test_a_student_from_training_to_retirement() -> None:
    story = [
        trained("a", 0),
        GatePassed(time=at(1), task="t", student_id="a", stage="offline", reason="r", n=300, threshold=0.7),
        routed(1, 2, stage="shadow", candidate=on_route("a", 2), candidate_stage="shadow"),
        routed(2, 3, stage="canary", candidate=on_route("a", 3), candidate_stage="canary"),
        routed(3, 4, stage="live", live=on_route("a", 4)),
        routed(4, 9, stage="teacher", retired=["a"]),
    ]
    states = [lives(story[: n + 1])[0].state for n in range(len(story))]
    assert states == ["trained", "gated", "shadow", "canary", "live", "retired"]
    life = lives(story)[0]
    assert (life.live_at, life.retired_at, life.threshold, life.bytes) == (at(4), at(9), 0.8, 1_000_000)
    assert life.as_json()["verdicts"] == {"offline": "passed"}


def test_a_champion_that_is_replaced_is_retired_and_its_successor_live() -> None:
    found = lives(
        [routed(1, 0, stage="live", live=on_route("a", 0)), routed(2, 5, stage="live", live=on_route("b", 5))]
    )
    assert {life.student_id: life.state for life in found} == {"a": "retired", "b": "live"}


def test_a_candidate_beside_a_champion_leaves_the_champion_live() -> None:
    route = routed(2, 5, stage="live", live=on_route("a", 0), candidate=on_route("b", 5), candidate_stage="shadow")
    assert {life.student_id: life.state for life in lives([route])} == {"b": "shadow", "a": "live"}


def test_verdicts_that_do_not_promote() -> None:
    def state(event) -> str:
        return lives([trained("a", 0), event])[0].state

    common = {"time": at(1), "task": "t", "student_id": "a", "stage": "offline", "reason": "r", "n": 9}
    assert state(GateFailed(**common)) == "turned away"
    assert state(GateUndecided(**common, final=False, needs_more=50)) == "being judged"
    assert state(GateUndecided(**common, final=True)) == "undecided"


def test_the_highest_version_is_the_route_whatever_the_order() -> None:
    old, new = routed(1, 0, stage="live", live=on_route("a", 0)), routed(2, 1, stage="teacher", retired=["a"])
    other = new.model_copy(update={"task": "u", "version": 7})
    assert latest_routes([new, other, old]) == {"default/t": new, "default/u": other}
