"""A person's label wins, in whatever order things come, and the teacher's stays beside it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from stillhouse.store.reviewed import apply_reviews

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def example(number: int, text: str = "x", output: str = "a", **changes):
    return {
        "example_id": f"e{number}",
        "input_sha256": text,
        "output": output,
        "distribution": '{"a": 0.9}',
        "provenance": "teacher",
    } | changes


def review(number: int, verdict: str, label: str | None = None, text: str = "x"):
    time = T0 + timedelta(minutes=number)
    return {"review_id": f"r{number}", "time": time, "input_sha256": text, "verdict": verdict, "label": label}


def test_a_correction_wins_for_every_example_of_the_text_and_keeps_what_the_teacher_said() -> None:
    rows = apply_reviews([example(1), example(2), example(3, "y")], [review(1, "correct", "b")])
    assert [(row["output"], row["teacher_output"], row["provenance"]) for row in rows] == [
        ("b", "a", "human"),
        ("b", "a", "human"),
        ("a", "a", "teacher"),
    ]
    assert json.loads(rows[0]["distribution"]) == {"b": 1.0}
    assert (rows[0]["review_id"], rows[2]["review_id"]) == ("r1", None)


def test_an_approved_answer_keeps_the_teachers_probabilities() -> None:
    [row] = apply_reviews([example(1)], [review(1, "approve", "a")])
    assert (row["output"], row["provenance"], row["distribution"]) == ("a", "human", '{"a": 0.9}')


def test_a_flagged_example_is_marked_and_a_rule_stays_a_rule() -> None:
    [row] = apply_reviews([example(1)], [review(1, "flag")])
    assert (row["verdict"], row["output"], row["provenance"]) == ("flag", "a", "teacher")
    [row] = apply_reviews([example(1, provenance="policy")], [review(1, "correct", "b")])
    assert (row["output"], row["provenance"]) == ("b", "policy")


VERDICTS = st.sampled_from([("approve", "a"), ("correct", "b"), ("correct", "c"), ("flag", None)])


@given(st.lists(VERDICTS, min_size=1, max_size=6), st.randoms())
def test_order_and_repeats_change_nothing_and_the_latest_by_time_holds(said, random) -> None:
    reviews = [review(n, verdict, label) for n, (verdict, label) in enumerate(said)]
    shuffled = random.sample(reviews, len(reviews)) + random.choices(reviews, k=3)
    assert apply_reviews([example(1)], shuffled) == apply_reviews([example(1)], reviews)
    assert apply_reviews([example(1)], shuffled)[0]["verdict"] == said[-1][0]
