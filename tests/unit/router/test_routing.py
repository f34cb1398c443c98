"""Plans: audits before routing, stages, and what never reaches a student."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.routing import draw, plan
from stillhouse.events import ArtefactRef, InferenceRequested, RouteChanged, StudentRoute
from stillhouse.tasks import Audit, Gate, StudentCandidate, Task, Teacher

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def task(**changes) -> Task:
    fields = {
        "name": "t",
        "labels": ("a", "b"),
        "teacher": Teacher(seed=Path("seed.jsonl"), usd_per_call=0.002),
        "students": (StudentCandidate(architecture="hashed_ngrams"),),
        "audit": Audit(pi=0.1),
        "gate": Gate(canary_share=0.3),
    }
    return Task(**(fields | changes))


def student(name: str) -> StudentRoute:
    artefact = ArtefactRef(uri=f"file:///{name}", sha256=name * 8, size=1)
    return StudentRoute(student_id=name, architecture="hashed_ngrams", artefact=artefact, threshold=0.8, since=NOW)


def route(live: str | None = None, candidate: str | None = None, candidate_stage=None) -> RouteChanged:
    return RouteChanged(
        task="t",
        version=3,
        stage="live" if live else candidate_stage or "teacher",
        live=student(live) if live else None,
        candidate=student(candidate) if candidate else None,
        candidate_stage=candidate_stage,
        reason="r",
        changed_by="x",
        cause_id="c",
    )


def request(number: int, **changes) -> InferenceRequested:
    return InferenceRequested(id=f"request-{number}", task="t", input="hello", **changes)


def test_without_a_student_the_teacher_answers_and_nothing_is_audited() -> None:
    assert plan(request(1), task(), None, None).reason == "no_student"
    assert plan(request(1), task(), route(), None).audits == ()


def test_in_shadow_every_request_is_audited_and_none_is_served() -> None:
    chosen = plan(request(1), task(), route(candidate="s", candidate_stage="shadow"), None)
    assert (chosen.serving, chosen.reason) == (None, "shadow")
    assert [(a.student.student_id, a.stage, a.pi) for a in chosen.audits] == [("s", "shadow", 1.0)]


def test_a_canary_serves_its_share_and_is_audited_on_all() -> None:
    plans = [plan(request(n), task(), route(candidate="s", candidate_stage="canary"), None) for n in range(2000)]
    serving = [p for p in plans if p.serving is not None]
    assert 500 < len(serving) < 700
    assert {p.reason for p in plans if p.serving is None} == {"canary_holdout"}
    assert all(p.audits[0].pi == 1.0 for p in plans)


def test_a_live_student_gets_everything_and_is_audited_by_chance() -> None:
    plans = [plan(request(n), task(), route(live="s"), None) for n in range(2000)]
    assert all(p.serving is not None for p in plans)
    assert 150 < sum(len(p.audits) for p in plans) < 250


def test_a_challenger_in_shadow_leaves_the_champion_in_place() -> None:
    plans = [plan(request(n), task(), route("old", "new", "shadow"), None) for n in range(200)]
    assert all(p.serving is not None and p.serving.student_id == "old" for p in plans)
    assert all("new" in [a.student.student_id for a in p.audits] for p in plans)


@given(number=st.integers(0, 10_000), stage=st.sampled_from(["live", "shadow", "canary"]))
def test_a_rule_keeps_every_student_away_and_the_draw_does_not_depend_on_it(number, stage) -> None:
    now = route(live="s") if stage == "live" else route(candidate="s", candidate_stage=stage)
    with_rule, without = (plan(request(number), task(), now, rule) for rule in ("fraud", None))
    assert with_rule.serving is None
    assert with_rule.reason == "policy"
    assert with_rule.audits == without.audits


@pytest.mark.parametrize("changes", [{"pin": "teacher"}, {"purpose": "backfill"}, {"purpose": "gate"}])
def test_who_asks_for_the_teacher_gets_it_unaudited(changes) -> None:
    chosen = plan(request(1, **changes), task(), route(live="s"), None)
    assert (chosen.serving, chosen.audits, chosen.reason) == (None, (), "pinned")


def test_a_task_of_high_criticality_never_reaches_a_student_whatever_the_route_says() -> None:
    chosen = plan(request(1), task(criticality="high"), route("s", "c", "canary"), None)
    assert (chosen.serving, chosen.audits, chosen.reason) == (None, (), "criticality")


def test_draws_are_uniform_repeatable_and_unrelated_between_purposes() -> None:
    draws = [draw(f"r{n}", "s", "audit") for n in range(5000)]
    assert draws[7] == draw("r7", "s", "audit")
    assert 0.49 < sum(draws) / len(draws) < 0.51
    both = sum(draw(f"r{n}", "s", "audit") < 0.5 and draw(f"r{n}", "s", "canary") < 0.5 for n in range(5000))
    assert 1150 < both < 1350


@given(
    first=st.integers(0, 1_000_000),
    threshold=st.sampled_from([0.0, 0.8, 1.01]),
    groups=st.dictionaries(st.sampled_from("ab"), st.floats(0, 1.01)),
    asked=st.one_of(st.none(), st.floats(0.001, 1)),
    candidate=st.sampled_from([(None, None), ("c", "shadow"), ("c", "canary")]),
    group=st.sampled_from([None, "a", "z"]),
)
def test_audits_never_stop_while_a_student_lives(first, threshold, groups, asked, candidate, group) -> None:
    """Whatever its thresholds, whoever is on trial beside it, and even where it serves nothing: all with one chance."""
    now = route("s", *candidate)
    live = now.live.model_copy(update={"threshold": threshold, "group_thresholds": groups, "unproven_threshold": 1.01})
    now = now.model_copy(update={"live": live, "audit_pi": asked})
    pi = max(0.1, asked or 0.0)
    for number in range(first, first + 20):
        chosen = plan(request(number, group=group), task(), now, None)
        drawn = draw(f"request-{number}", "s", "audit") < pi
        assert [audit.pi for audit in chosen.audits if audit.stage == "live"] == ([pi] if drawn else [])


def test_a_route_may_ask_for_more_audits_never_for_fewer() -> None:
    for wanted, share in ((0.5, 0.5), (0.01, 0.1), (None, 0.1)):
        asked = route(live="s").model_copy(update={"audit_pi": wanted})
        plans = [plan(request(n), task(), asked, None) for n in range(4000)]
        audited = [p.audits[0] for p in plans if p.audits]
        assert {audit.pi for audit in audited} == {share}
        assert len(audited) / 4000 == pytest.approx(share, abs=0.03)
