"""Labels under suspicion: the error rate with a look after every verdict, and what counts as evidence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.quality.corrections import suspect_labels
from stillhouse.quality.eprocess import AgreementTest

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def review(number: int, label: str = "a", wrong: bool = True, **changes):
    return {
        "review_id": f"r{number}",
        "case_id": f"c{number}",
        "time": T0 + timedelta(minutes=number),
        "drawn": "random",
        "teacher_version": "t1",
        "verdict": "correct" if wrong else "approve",
        "previous_label": label,
    } | changes


def suspects(reviews, ceiling: float = 0.2, labels: int = 10, **more) -> set[str]:
    return suspect_labels(reviews, teacher_version="t1", ceiling=ceiling, labels=labels, **more)


def test_a_label_that_is_mostly_wrong_is_suspected_and_its_neighbours_are_not() -> None:
    reviews = [review(n, "invented", n % 5 != 0) for n in range(30)]
    reviews += [review(100 + n, "fine", n % 10 == 0) for n in range(60)]
    assert suspects(reviews) == {"invented"}


def test_few_verdicts_prove_nothing() -> None:
    assert suspects([review(n) for n in range(2)]) == set()


@pytest.mark.parametrize(
    "changes", [{"drawn": "picked"}, {"teacher_version": "t0"}, {"verdict": "flag"}, {"case_id": "one and the same"}]
)
def test_what_was_picked_is_of_another_teacher_or_says_nothing_of_it_is_no_evidence(changes) -> None:
    assert suspects([review(n) for n in range(40)]) == {"a"}
    assert suspects([review(n, **changes) for n in range(40)]) == set()


def test_the_last_verdict_of_a_case_counts() -> None:
    wrong = [review(n) for n in range(40)]
    taken_back = [review(100 + n, wrong=False, case_id=f"c{n}") for n in range(40)]
    assert suspects([*taken_back, *wrong]) == set()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40), st.randoms())
def test_the_order_in_which_reviews_are_read_does_not_matter(said, random) -> None:
    reviews = [review(n, label, wrong) for n, (label, wrong) in enumerate(said)]
    shuffled = random.sample(reviews, len(reviews))
    assert suspects(shuffled) == suspects(reviews)


def test_wrong_suspicions_are_at_most_alpha_with_a_look_after_every_verdict() -> None:
    """Ten labels, each exactly at the ceiling, 400 verdicts each: how often any is ever suspected.

    The boundary is the test's own (fewest corrections that pass after n verdicts), so that 2,000 tasks take a second.
    """
    labels, ceiling, alpha, verdicts, tasks = 10, 0.2, 0.05, 400, 2000
    boundary, least = np.full(verdicts, verdicts + 1), 0
    for n in range(1, verdicts + 1):
        while least <= n and _verdict(least, n, ceiling, alpha / labels) != "passed":
            least += 1
        boundary[n - 1] = least
    rng = np.random.default_rng(20261123)
    wrong = (rng.random((tasks, labels, verdicts), dtype=np.float32) < ceiling).cumsum(axis=2, dtype=np.int16)
    ever = (wrong >= boundary).any(axis=2).any(axis=1).mean()
    assert ever <= alpha
    assert ever > 0  # the boundary can be crossed at all
    # And with power: a label that is wrong half of the time is found within 60 verdicts in most tasks.
    half = (rng.random((tasks, 60)) < 0.5).cumsum(axis=1)
    assert (half >= boundary[:60]).any(axis=1).mean() > 0.8


def _verdict(corrected: int, n: int, ceiling: float, alpha: float) -> str:
    test = AgreementTest(ceiling, alpha)
    test.update_many(corrected, n - corrected)
    return test.verdict


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="0 labels"):
        suspects([], labels=0)
    with pytest.raises(ValueError, match="floor is 1"):
        suspects([review(1)], ceiling=1.5)
