"""From events to the report, exactly; and a page that stands alone."""

from __future__ import annotations

import json
import random
from html.parser import HTMLParser

import pytest

from stillhouse.demo.figures import agreement, curves, missing, quantile, report
from stillhouse.demo.player import Tally
from stillhouse.demo.report import write_report
from stillhouse.demo.watcher import State
from stillhouse.quality.edetector import ErrorDetector
from tests.unit.demo.story import TASK, at, audit, completed, cost, drift, make_plan, route, said, trained, whole_story


def folded(events) -> State:
    state = State("default/t")
    for event in events:
        state.fold(event)
    return state


def test_the_report_of_a_whole_demo_to_the_last_number() -> None:
    events, tally = whole_story()
    figures = report(folded(events), tally, make_plan(), TASK)
    about = figures.pop("about")
    spent = 15 * 0.002 + 25 * 0.0000001 + 10 * 0.002 + 0.01 + 0.005
    assert figures.pop("agreement") == pytest.approx({"estimate": 0.8, "lower": 0.49309, "n": 10}, abs=1e-4)
    assert figures.pop("cost_per_1k") == pytest.approx(
        {"teacher": 2.0, "net": 25 * spent, "teacher_cpu": 0.001, "student_cpu": 0.0001}
    )
    assert figures == {
        "requests": 40,
        "answered": 40,
        "lost": 0,
        "duplicates_suppressed": 2,
        "served_by": {"teacher": 15, "student": 25},
        "gate": [
            {
                "student": student,
                "stage": "offline",
                "verdict": "passed",
                "n": 200,
                "teacher_calls": 3,
                "evidence": 25.0,
            }
            for student in ("s1", "s2")
        ],
        "latency_ms": {"teacher": {"p50": 20.008, "p99": 20.03}, "student": {"p50": 1.023, "p99": 1.04}},
        "drift": {"injected_at": "2026-01-01T00:00:19.900Z", "detected_after_requests": 6, "rolled_back": True},
        "students": [
            {
                "id": "s1",
                "architecture": "hashed_ngrams",
                "bytes": 2_000_000,
                "live_at": "2026-01-01T00:00:10.500Z",
                "retired_at": "2026-01-01T00:00:25.600Z",
            },
            {
                "id": "s2",
                "architecture": "hashed_ngrams",
                "bytes": 2_000_000,
                "live_at": "2026-01-01T00:00:30.500Z",
                "retired_at": None,
            },
        ],
    }
    assert about["overheads_usd"] == pytest.approx({"audit": 0.02, "training": 0.01, "gate": 0.005})
    # Requests 11 to 25 and 31 to 40, of which ten were audited: the teacher was paid for those.
    assert about["while_live"] == pytest.approx(
        {"requests": 25, "by_student": 25, "teacher_usd_per_1k": 2.0, "usd_per_1k": 40 * (10 * 0.002 + 25 * 0.0000001)}
    )
    assert about["teacher_calls"] == {"serve": 15, "audit": 10, "backfill": 0, "gate": 0}
    assert [(step["what"], step["student"], step["requests"], step["seconds"]) for step in about["timeline"]] == [
        ("trained", "s1", 9, 8.0),
        ("offline passed", "s1", 10, 9.0),
        ("live", "s1", 10, 9.5),
        ("traffic changed", None, 19, 18.9),
        ("drift detected", "s1", 25, 24.5),
        ("back to teacher", "s1", 25, 24.6),
        ("trained", "s2", 30, 29.0),
        ("offline passed", "s2", 30, 29.2),
        ("live", "s2", 30, 29.5),
    ]
    assert about["sample"] is True
    assert about["agreement_without_changed_traffic"]["n"] == 8
    assert about["agreement_without_changed_traffic"]["estimate"] == 1.0
    assert about["teacher_price"] == {"usd_per_call": 0.002, "source": "declared <here>", "measured": False}
    assert about["agreement_by_student"]["s2"]["estimate"] == 1.0
    assert missing(report(folded(events), tally, make_plan(), TASK)) is None


def test_events_twice_and_in_any_order_of_topics_give_the_same_report() -> None:
    events, tally = whole_story()
    once = report(folded(events), tally, make_plan(), TASK)
    for seed in range(5):
        # Within a topic the order stands; between topics nothing is promised.
        topics: dict[str, list] = {}
        for event in events + events:
            topics.setdefault(event.TYPE, []).append(event)
        rng, mixed = random.Random(seed), []
        while topics:
            topic = rng.choice(sorted(topics))
            mixed.append(topics[topic].pop(0))
            if not topics[topic]:
                del topics[topic]
        again = report(folded(mixed), tally, make_plan(), TASK)
        assert again.pop("cost_per_1k") == pytest.approx(once["cost_per_1k"])
        assert again["about"].pop("overheads_usd") == pytest.approx(once["about"]["overheads_usd"])
        assert again["about"].pop("spent_usd") == pytest.approx(once["about"]["spent_usd"])
        assert again["about"].pop("teacher_alone_usd") == pytest.approx(once["about"]["teacher_alone_usd"])
        expected = {key: value for key, value in once.items() if key != "cost_per_1k"}
        kept = ("overheads_usd", "spent_usd", "teacher_alone_usd")
        expected["about"] = {key: value for key, value in once["about"].items() if key not in kept}
        assert again == expected


def test_other_tasks_are_not_counted() -> None:
    state = folded([completed(1), completed(2, task="other")])
    assert (state.by_teacher, len(state.answers)) == (1, 1)


def test_a_second_different_answer_is_not_a_suppressed_duplicate() -> None:
    state = folded([completed(1), completed(1), completed(2), completed(2, latency_ms=99.0)])
    figures = report(state, Tally(sent=2, answered=2, duplicates_sent={"r1", "r2"}), make_plan(), TASK)
    assert figures["duplicates_suppressed"] == 1
    assert figures["about"]["answered_twice"] == 1
    assert figures["served_by"] == {"teacher": 2, "student": 0}


def test_gates_own_requests_cost_but_serve_nobody() -> None:
    state = folded([completed(1), completed(2, purpose="gate")])
    assert state.by_teacher == 1
    assert report(state, Tally(sent=1, answered=1), make_plan(), TASK)["cost_per_1k"]["net"] == pytest.approx(4.0)


def test_what_would_be_escalated_agrees() -> None:
    escalated = audit(1, loss=True).model_copy(update={"would_serve": False})
    failed = audit(2).model_copy(update={"student": None, "would_serve": False})
    state = folded([escalated, failed, audit(3, stage="shadow", loss=True)])
    assert [found.loss for found in state.audits.values()] == [False, False, True]
    figures = report(state, Tally(), make_plan(), TASK)
    assert figures["agreement"]["n"] == 2  # shadow audits measure no live student
    assert figures["agreement"]["estimate"] == 1.0


def test_the_lower_bound_is_exact_and_one_sided() -> None:
    audits = [found for found in folded([audit(n) for n in range(59)]).audits.values()]
    # 59 of 59: 0.05 ** (1 / 59), the textbook case.
    assert agreement(audits)["lower"] == pytest.approx(0.05 ** (1 / 59))
    assert agreement([]) == {"estimate": None, "lower": None, "n": 0}


def test_an_alarm_before_the_change_is_not_its_detection() -> None:
    events = [completed(1), route(1, 1.5, "s1"), drift("s1", 2), route(2, 3), *(completed(n) for n in range(2, 6))]
    figures = report(folded(events), Tally(sent=5, answered=5, injected_at=at(4)), make_plan(), TASK)
    assert figures["drift"]["detected_after_requests"] is None
    assert figures["drift"]["rolled_back"] is False


@pytest.mark.parametrize(
    ("drop", "change", "said_"),
    [
        (("route.changed",), {}, "no student went live"),
        ((), {"injected_at": None}, "the traffic did not change"),
        (("drift.detected",), {}, "the change of traffic was not detected"),
        ((), {"lost": 2, "answered": 38}, "2 requests were lost"),
        ((), {"answered": 39}, "1 requests were answered with an error"),
    ],
)
def test_what_is_missing_is_said(drop, change, said_) -> None:
    events, tally = whole_story()
    for name, value in change.items():
        setattr(tally, name, value)
    state = folded([event for event in events if event.TYPE not in drop])
    assert missing(report(state, tally, make_plan(), TASK)) == said_


def test_rollback_and_second_student_are_asked_for() -> None:
    events, tally = whole_story()
    until = [event for event in events if event.TYPE != "route.changed" or event.version < 2]
    assert missing(report(folded(until), tally, make_plan(), TASK)) == "the route did not go back to the teacher"
    until = [event for event in events if event.TYPE != "route.changed" or event.version < 3]
    assert missing(report(folded(until), tally, make_plan(), TASK)) == "no second student went live"


def test_training_is_over_when_either_end_is_seen() -> None:
    events, _ = whole_story()
    state = State("default/t")
    state.fold(next(event for event in events if event.TYPE == "training.started"))
    assert state.training
    state.fold(trained("s1", 9))
    assert not state.training
    # An end that overtakes its beginning is an end all the same.
    late = folded([trained("s1", 9), next(event for event in events if event.TYPE == "training.started")])
    assert not late.training


def test_curves_say_what_happened_when() -> None:
    events, tally = whole_story()
    shown = curves(folded(events), tally, TASK)
    assert shown.requests == 40
    assert [(moment.at, moment.name) for moment in shown.moments] == [
        (10, "student live"),
        (19, "traffic changes"),
        (25, "drift detected, back to teacher"),
        (30, "student live"),
    ]
    assert [y for _, y in shown.student_share] == [0.0] * 10 + [1.0] * 15 + [0.0] * 5 + [1.0] * 10
    assert shown.cost_without[-1] == pytest.approx((40.0, 0.08))
    assert shown.cost_with[-1] == pytest.approx((40.0, 15 * 0.002 + 25 * 0.0000001 + 0.035))
    detector = ErrorDetector(0.05, 1_000_000)
    for loss in (False, False, False, False, True, True):
        detector.update(loss)
    assert shown.watched[0].statistic[-1] == (24.0, detector.statistic)
    assert [found.student_id for found in shown.watched] == ["s1", "s2"]
    assert [len(piece) for piece in shown.student_latency] == [15, 10]


def test_quantiles_are_of_the_data() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert quantile([7.0], 0.99) == 7.0
    assert quantile([], 0.5) is None


class Page(HTMLParser):
    """Checks nesting, and collects tags and whatever could reach outside."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.outside += [f"{name}={value}" for name, value in attrs if name in {"src", "href", "srcset", "onload"}]

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def page_of(folder) -> tuple[str, Page]:
    text = (folder / "report.html").read_text()
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return text, page


def test_the_page_parses_and_needs_nothing_else(tmp_path) -> None:
    events, tally = whole_story()
    more = [audit(n, "s2").model_copy(update={"id": f"more-{n}", "request_id": f"r{n}"}) for n in range(1, 40)]
    state = folded(events + more)
    figures = report(state, tally, make_plan(), TASK)
    write_report(tmp_path, figures, curves(state, tally, TASK), TASK, None)
    text, page = page_of(tmp_path)
    assert page.tags.count("svg") == 5
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.outside == []
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "generated sample" in text
    assert "declared &lt;here&gt;" in text
    assert "late &amp; new" in text
    assert "prefers-color-scheme: dark" in text
    assert "Not everything" not in text
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(figures))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_demo_that_was_cut_short_has_a_page_too(tmp_path) -> None:
    for events in ([], [completed(1)], [completed(1), cost("x", 0.1, 0.0)]):
        state = folded(events)
        tally = Tally(sent=1, answered=len(events) and 1)
        write_report(
            tmp_path, report(state, tally, make_plan(), TASK), curves(state, tally, TASK), TASK, "it was <stopped>"
        )
        text, _ = page_of(tmp_path)
        assert "Not everything was reached: it was &lt;stopped&gt;." in text


def test_answers_with_an_error_are_nobodys(tmp_path) -> None:
    failed = completed(1, status="error", served_by=None, teacher=None, cost_usd=0.0, teacher_cost_usd=0.0)
    assert said("t1").output == "a"
    assert folded([failed]).by_teacher == 0
