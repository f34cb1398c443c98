"""The route controller: obeys verdicts, alarms and operators, each once, and lets nobody back in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.router.controller import decide
from stillhouse.events import (
    ArtefactRef,
    AuditRequested,
    DatasetRef,
    DriftDetected,
    GateFailed,
    GatePassed,
    GateUndecided,
    RouteChanged,
    RouteRequested,
    StudentTrained,
    ThresholdRecalibrated,
)
from tests.unit.router.test_routing import task

START = datetime(2026, 1, 1, tzinfo=UTC)
TASK = task()


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def trained(name: str, minute: int = 0) -> StudentTrained:
    return StudentTrained(
        task="t",
        student_id=name,
        job_id=f"job-{name}",
        architecture="hashed_ngrams",
        rung=0,
        artefact=ArtefactRef(uri=f"file:///{name}", sha256=name * 8, size=1),
        dataset=DatasetRef(version="v", uri="file:///d", n_train=1, n_select=1, cutoff=at(minute)),
        teacher_version="teacher",
    )


def verdict(kind, name: str, stage: str, minute: int = 1, cutoff: int = 0, **fields):
    return kind(
        id=f"{kind.TYPE}-{name}-{stage}",
        time=at(minute),
        task="t",
        student_id=name,
        stage=stage,
        reason="r",
        n=1,
        threshold=0.8,
        student=trained(name, cutoff),
        **fields,
    )


def drift(name: str, minute: int = 9) -> DriftDetected:
    return DriftDetected(
        id=f"drift-{name}",
        time=at(minute),
        task="t",
        student_id=name,
        statistic=9,
        alarm_level=8,
        audits=100,
        estimate=0.8,
        lower=0.7,
        upper=0.9,
        window=100,
    )


def follow(*events, route: RouteChanged | None = None) -> RouteChanged | None:
    for event in events:
        route = decide(route, event, TASK) or route
    return route


def to_live(name: str, minute: int = 1) -> list[GatePassed]:
    cutoff = minute - 1
    return [verdict(GatePassed, name, stage, minute, cutoff) for stage in ("offline", "shadow", "canary")]


def test_a_student_goes_from_gate_to_gate_and_only_forward() -> None:
    offline, shadow, canary = to_live("s")
    route = follow(offline)
    assert (route.stage, route.candidate_stage, route.version) == ("shadow", "shadow", 1)
    assert decide(route, canary, TASK) is None
    route = follow(shadow, route=route)
    assert route.stage == "canary"
    assert decide(route, shadow, TASK) is None
    route = follow(canary, route=route)
    assert (route.stage, route.live.student_id, route.candidate, route.version) == ("live", "s", None, 3)
    assert all(decide(route, event, TASK) is None for event in (offline, shadow, canary))


def test_a_failed_stage_takes_the_candidate_out_for_good() -> None:
    route = follow(*to_live("s")[:1], verdict(GateFailed, "s", "shadow"))
    assert (route.stage, route.candidate, route.retired) == ("teacher", None, ["s"])
    assert decide(route, to_live("s")[0], TASK) is None


def test_an_open_gate_changes_nothing_and_a_spent_one_takes_the_candidate_out() -> None:
    route = follow(*to_live("s")[:2])
    assert decide(route, verdict(GateUndecided, "s", "canary", final=False), TASK) is None
    assert follow(verdict(GateUndecided, "s", "canary", final=True), route=route).retired == ["s"]


def test_an_offline_failure_of_a_student_that_is_on_no_route_changes_nothing() -> None:
    assert decide(None, verdict(GateFailed, "s", "offline"), TASK) is None


def test_drift_takes_everybody_out_and_voids_what_was_learnt_before() -> None:
    route = follow(*to_live("s"), verdict(GatePassed, "c", "offline", 5, 4), drift("s"))
    assert (route.stage, route.live, route.candidate) == ("teacher", None, None)
    assert set(route.retired) == {"s", "c"}
    assert route.changed_by == "drift.detected"
    assert decide(route, verdict(GatePassed, "early", "offline", 10, cutoff=8), TASK) is None
    assert follow(*to_live("new", 12), route=route).live.student_id == "new"


def test_an_alarm_about_somebody_else_is_passed_over() -> None:
    assert decide(follow(*to_live("s")), drift("other"), TASK) is None


def test_a_challenger_that_passes_replaces_the_champion() -> None:
    route = follow(*to_live("old"), *to_live("new", 3))
    assert (route.live.student_id, route.retired) == ("new", ["old"])


def test_operators_take_out_pin_and_unpin() -> None:
    def ask(action: str) -> RouteRequested:
        return RouteRequested(task="t", action=action, requested_by="ann", reason="incident 7")

    route = follow(*to_live("s"), ask("pin_teacher"))
    assert (route.stage, route.pinned, route.retired, route.changed_by) == ("teacher", True, ["s"], "ann")
    assert route.reason == "ann: incident 7"
    assert decide(route, to_live("new", 3)[0], TASK) is None
    route = follow(ask("unpin"), route=route)
    assert not route.pinned
    assert follow(*to_live("new", 3), route=route).live.student_id == "new"
    assert decide(None, ask("teacher"), TASK) is None
    assert decide(None, ask("pin_teacher"), TASK).pinned


def order(action: str, minute: int = 20) -> RouteRequested:
    return RouteRequested(time=at(minute), task="t", action=action, requested_by="cli:ann", reason="incident 7")


def test_an_operator_promotes_a_candidate_stage_by_stage_and_the_route_says_so() -> None:
    assert decide(None, order("promote"), TASK) is None
    route = follow(to_live("s")[0], order("promote"))
    assert (route.stage, route.candidate.student_id, route.changed_by) == ("canary", "s", "cli:ann")
    assert route.reason == "cli:ann: incident 7 (promoted by hand from shadow to canary, its gate not passed)"
    assert decide(route, to_live("s")[1], TASK) is None  # the shadow gate's own verdict comes late
    route = follow(order("promote"), route=route)
    assert (route.stage, route.live.student_id, route.candidate) == ("live", "s", None)
    assert "from canary to live" in route.reason
    assert decide(route, order("promote"), TASK) is None


def test_a_rollback_goes_back_to_the_student_before_and_from_there_to_the_teacher() -> None:
    assert decide(None, order("rollback"), TASK) is None
    route = follow(*to_live("old"), *to_live("new", 3), verdict(GatePassed, "next", "offline", 5, 4))
    assert route.previous.student_id == "old"
    route = follow(order("rollback"), route=route)
    assert (route.stage, route.live.student_id, route.previous) == ("live", "old", None)
    assert (route.candidate, set(route.retired), route.live.since) == (None, {"new", "next"}, at(20))
    route = follow(order("rollback"), route=route)
    assert (route.stage, route.live) == ("teacher", None)
    assert decide(route, order("rollback"), TASK) is None


def test_nobody_goes_back_to_a_student_from_before_an_alarm_or_an_order_to_the_teacher() -> None:
    champions = (*to_live("old"), *to_live("new", 3))
    for out in (drift("new"), order("teacher", 9)):
        route = follow(*champions, out, *to_live("later", 12))
        assert (route.live.student_id, route.previous) == ("later", None)
        assert follow(order("rollback"), route=route).live is None


def moved(name: str, number: int = 1, **fields) -> ThresholdRecalibrated:
    told = {
        "moved": True,
        "threshold": 0.6,
        "previous_threshold": 0.8,
        "n": 2000,
        "alpha": 0.025,
        "reason": "certified",
    }
    return ThresholdRecalibrated(
        id=f"moved-{name}-{number}", time=at(15), task="t", student_id=name, round=number, **(told | fields)
    )


def test_the_live_students_threshold_moves_once_a_round() -> None:
    route = follow(*to_live("s"))
    assert decide(None, moved("s"), TASK) is None
    assert decide(route, moved("other"), TASK) is None
    assert decide(route, moved("s", moved=False), TASK) is None
    groups = {"group_thresholds": {"g": 0.4}, "unproven_threshold": 1.01}
    after = follow(moved("s", 2, **groups), route=route)
    assert (after.live.threshold, after.live.recalibrated, after.stage) == (0.6, 2, "live")
    assert (after.live.threshold_for("g"), after.live.threshold_for("h")) == (0.4, 1.01)
    assert (after.reason, after.changed_by) == ("certified", "threshold.recalibrated")
    assert decide(after, moved("s", 1, threshold=0.1), TASK) is None  # an earlier round that comes late
    assert decide(after, moved("s", 2), TASK) is None


def test_drift_voids_what_audits_certified_before() -> None:
    route = follow(*to_live("s"), drift("s"))
    assert decide(route, moved("s"), TASK) is None


def test_no_student_enters_a_task_of_high_criticality() -> None:
    assert decide(None, to_live("s")[0], task(criticality="high")) is None


EVENTS = st.lists(
    st.one_of(
        st.builds(
            lambda kind, name, stage: verdict(kind, name, stage),
            st.sampled_from([GatePassed, GateFailed, GateUndecided]),
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from(["offline", "shadow", "canary"]),
        ),
        st.builds(drift, st.sampled_from(["a", "b", "c"])),
        st.builds(order, st.sampled_from(["promote", "rollback"])),
        st.builds(moved, st.sampled_from(["a", "b", "c"]), st.integers(1, 3)),
    ),
    max_size=25,
)


@given(EVENTS)
def test_whatever_comes_versions_rise_by_one_and_the_retired_stay_out(events) -> None:
    route = None
    for event in events:
        after = decide(route, event, TASK)
        if after is None:
            continue
        assert after.version == (route.version + 1 if route else 1)
        serving = {s.student_id for s in (after.live, after.candidate) if s}
        assert not serving & set(after.retired)
        assert (after.stage == "live") == (after.live is not None)
        # Delivered again, it changes nothing.
        assert decide(after, event, TASK) is None
        route = after


def test_more_audits_are_asked_for_the_live_student_only_and_end_with_it() -> None:
    def ask(name: str, pi: float | None) -> AuditRequested:
        return AuditRequested(task="t", student_id=name, pi=pi, reason="inputs suspected")

    assert decide(None, ask("s", 0.5), TASK) is None
    live = follow(*to_live("s"))
    assert decide(live, ask("other", 0.5), TASK) is None
    assert decide(live, ask("s", None), TASK) is None
    route = follow(ask("s", 0.5), route=live)
    assert (route.audit_pi, route.live, route.reason) == (0.5, live.live, "inputs suspected")
    assert decide(route, ask("s", 0.5), TASK) is None
    assert follow(ask("s", None), route=route).audit_pi is None
    assert follow(drift("s"), route=route).audit_pi is None
    assert follow(*to_live("new", 12), route=route).audit_pi is None
