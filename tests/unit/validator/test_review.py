"""Which answers people look at: a uniform draw that nothing disturbs, and picks within their daily numbers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from services.validator.review import choose_cases, draw, requested
from stillhouse.events import ReviewRequested, follow_id
from tests.unit.trainer.tasks import T0, make_task

NOTHING = {"policy": 0, "suspect_label": 0, "disagreement": 0, "rare_class": 0, "low_confidence": 0}


def task(random_share: float = 0.0, **per_day: int):
    numbers = {f"{reason}_per_day": number for reason, number in (NOTHING | per_day).items()}
    return make_task(review={"random_share": random_share, **numbers})


def answer(number: int, **changes):
    return {
        "example_id": f"e{number}",
        "time": T0 + timedelta(seconds=number),
        "request_id": f"r{number}",
        "input_sha256": f"text {number}",
        "output": "a",
        "confidence": 0.9,
        "sample": "full",
        "provenance": "teacher",
        "teacher_version": "t",
    } | changes


def audit(number: int, student: str = "b", **changes):
    return {
        "request_id": f"r{number}",
        "student_id": "s1",
        "teacher_output": "a",
        "student_output": student,
        "student_confidence": 0.9,
        "would_serve": True,
        "agrees": student == "a",
    } | changes


def chosen(task, answers, audits=(), taken=(), said=None, suspects=()):
    return choose_cases(task, answers, audits, taken, said or {}, suspects)


def reasons(cases) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for case in cases:
        found.setdefault(case.reason, set()).add(case.request_id)
    return found


def test_each_reason_finds_its_cases() -> None:
    answers = [
        answer(1, provenance="policy", sample="escalation"),
        answer(2, output="c"),
        answer(3),
        answer(4, output="b"),
        answer(5, confidence=0.3),
        answer(6),
        answer(7),
    ]
    audits = [audit(3), audit(6, "a", student_confidence=0.2), audit(7, "a")]
    one_each = task(policy=9, suspect_label=9, disagreement=9, rare_class=9, low_confidence=9)
    cases = chosen(one_each, answers, audits, said={"a": 500, "b": 1, "c": 400}, suspects={"c"})
    assert reasons(cases) == {
        "policy": {"r1"},
        "suspect_label": {"r2"},
        "disagreement": {"r3"},
        "rare_class": {"r4"},
        "low_confidence": {"r5", "r6"},
    }
    assert {case.drawn for case in cases} == {"picked"}
    assert {case.request_id: case.student_id for case in cases}["r3"] == "s1"


def test_what_a_client_was_given_wrongly_comes_before_what_was_escalated() -> None:
    answers = [answer(number) for number in range(40)]
    audits = [audit(number, would_serve=number == 17, agrees=number != 17) for number in range(40)]
    [case] = chosen(task(disagreement=1), answers, audits)
    assert case.request_id == "r17"


def test_labels_are_rare_only_when_enough_was_said() -> None:
    assert not chosen(task(rare_class=5), [answer(1, output="b")], said={"a": 100, "b": 1})
    assert chosen(task(rare_class=5), [answer(1, output="b")], said={"a": 300, "b": 1})


def test_daily_numbers_hold_over_looks_and_begin_anew_each_day() -> None:
    unsure = task(low_confidence=3)
    answers = [answer(number, confidence=0.1) for number in range(50)]
    first = chosen(unsure, answers[:20])
    assert len(first) == 3
    assert not chosen(unsure, answers, taken=[asdict(case) for case in first])
    tomorrow = [answer(100 + n, confidence=0.1, time=T0 + timedelta(days=1, seconds=n)) for n in range(9)]
    assert len(chosen(unsure, [*answers, *tomorrow], taken=[asdict(case) for case in first])) == 3


def test_no_text_is_picked_twice() -> None:
    answers = [answer(number, confidence=0.1, input_sha256="where is my order") for number in range(9)]
    [case] = chosen(task(low_confidence=5), answers)
    assert not chosen(
        task(low_confidence=5), [answer(99, confidence=0.1, input_sha256="where is my order")], taken=[asdict(case)]
    )


def test_the_random_share_is_uniform_whatever_the_answers_look_like() -> None:
    """20,000 requests: the drawn share is the declared one, among sure and unsure answers alike (4 sigma)."""
    share, n = 0.05, 20_000
    answers = [answer(k, confidence=0.1 if k % 2 else 0.95, output="ab"[k % 3 == 0]) for k in range(n)]
    drawn = [case for case in chosen(task(share, low_confidence=50), answers) if case.drawn == "random"]
    assert {case.share for case in drawn} == {share}
    for part in (range(n), range(0, n, 2), range(1, n, 2), range(n // 2)):
        names = {f"r{k}" for k in part}
        count = sum(case.request_id in names for case in drawn)
        assert abs(count - share * len(names)) < 4 * math.sqrt(share * (1 - share) * len(names))


def test_random_has_precedence_and_is_drawn_from_unbiased_samples_only() -> None:
    answers = [answer(n, confidence=0.1, sample=("full", "audit", "escalation")[n % 3]) for n in range(300)]
    cases = chosen(task(1.0, low_confidence=1000), answers)
    samples = Counter((case.drawn, int(case.request_id[1:]) % 3) for case in cases)
    assert samples == {("random", 0): 100, ("random", 1): 100, ("picked", 2): 100}


@given(st.lists(st.integers(0, 300), max_size=120, unique=True), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_looking_in_pieces_and_again_draws_the_same_random_cases(numbers, piece) -> None:
    a_third = task(0.3, low_confidence=4)
    answers = [answer(number, confidence=0.2) for number in sorted(numbers)]
    at_once = {case.case_id for case in chosen(a_third, answers) if case.drawn == "random"}
    taken: list[dict] = []
    for begin in range(0, len(answers), piece):
        for _ in range(2):
            new = chosen(a_third, answers[max(0, begin - 5) : begin + piece], taken=taken)
            taken += [asdict(case) for case in new]
    assert {row["case_id"] for row in taken if row["drawn"] == "random"} == at_once
    assert len({row["case_id"] for row in taken}) == len(taken)
    assert sum(row["drawn"] == "picked" for row in taken) <= 4


def test_a_case_is_said_under_an_id_that_follows_from_its_request_and_without_its_text() -> None:
    [case] = chosen(task(low_confidence=1), [answer(1, confidence=0.1)])
    event = requested(asdict(case))
    assert event.id == case.case_id == follow_id("r1", ReviewRequested.TYPE, "default/intents")
    assert event == requested(asdict(case))
    assert not {"input", "text", "output"} & set(ReviewRequested.model_fields)
    assert draw("default/intents", "r1") != draw("default/other", "r1")
