"""Floors under slices: a good student is rarely turned away however many there are, a bad slice rarely passes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stillhouse.quality.quantiles import quantile_bounds
from stillhouse.quality.self_agreement import repeats, teacher_agreement
from stillhouse.quality.slices import judge_differences, judge_slices


def cases(rng, n: int, slices: int, agreement: float, bad: float | None = None):
    """(slice, holds); slice 0 is at `bad` where one is given."""
    names = rng.integers(0, slices, n)
    share = np.where((names == 0) & (bad is not None), bad or 0.0, agreement)
    return list(zip(map(str, names), (rng.random(n) < share).tolist(), strict=True))


def test_ten_slices_at_the_floor_fail_together_at_most_alpha() -> None:
    rng, alpha, paths = np.random.default_rng(8), 0.1, 120
    failed = sum(
        any(one.verdict == "failed" for one in judge_slices(cases(rng, 800, 10, 0.9), 0.9, alpha)) for _ in range(paths)
    )
    assert failed <= alpha * paths + 3 * math.sqrt(alpha * (1 - alpha) * paths)


def test_a_bad_slice_among_good_ones_passes_at_most_alpha() -> None:
    rng, alpha, paths, passed = np.random.default_rng(9), 0.1, 120, 0
    for _ in range(paths):
        found = {one.name: one for one in judge_slices(cases(rng, 800, 4, 0.99, bad=0.9), 0.9, alpha)}
        passed += found["0"].verdict == "passed"
    assert passed <= alpha * paths + 3 * math.sqrt(alpha * (1 - alpha) * paths)


def test_good_slices_pass_and_a_broken_one_is_found() -> None:
    found = {one.name: one for one in judge_slices(cases(np.random.default_rng(1), 1500, 4, 0.99, bad=0.6), 0.9, 0.05)}
    assert found["0"].verdict == "failed"
    assert {found[name].verdict for name in ("1", "2", "3")} == {"passed"}
    assert found["1"].lower > 0.9


def test_an_open_slice_says_how_many_cases_of_all_it_needs() -> None:
    told = [("common", True)] * 90 + [("rare", True)] * 10
    rare = {one.name: one for one in judge_slices(told, 0.9, 0.05)}["rare"]
    assert rare.verdict == "undecided"
    assert rare.needs_more is not None
    more = [("common", True)] * (9 * rare.needs_more // 10) + [("rare", True)] * math.ceil(rare.needs_more / 10)
    assert {one.name: one.verdict for one in judge_slices(told + more, 0.9, 0.05)}["rare"] == "passed"


def test_non_inferiority_in_pairs() -> None:
    rng = np.random.default_rng(4)
    same = [("a", int(x)) for x in rng.choice([-1, 0, 1], 1500, p=[0.02, 0.96, 0.02])]
    worse = [("a", int(x)) for x in rng.choice([-1, 0, 1], 1500, p=[0.2, 0.78, 0.02])]
    assert judge_differences(same, 0.05, 0.05)[0].verdict == "passed"
    assert judge_differences(worse, 0.05, 0.05)[0].verdict == "failed"
    at_the_margin, alpha, paths = 0, 0.1, 100
    for _ in range(paths):
        told = [("a", int(x)) for x in rng.choice([-1, 0, 1], 400, p=[0.08, 0.89, 0.03])]
        at_the_margin += judge_differences(told, 0.05, alpha)[0].verdict == "passed"
    assert at_the_margin <= alpha * paths + 3 * math.sqrt(alpha * (1 - alpha) * paths)


@pytest.mark.parametrize("n", [50, 400, 1000])
def test_quantile_bounds_miss_at_most_delta_each(n: int) -> None:
    rng, delta, paths = np.random.default_rng(n), 0.05, 2000
    values = rng.exponential(size=(paths, n))
    truth = -math.log(0.01)
    bounds = [quantile_bounds(row, 0.99, delta) for row in values]
    limit = delta * paths + 3 * math.sqrt(delta * (1 - delta) * paths)
    assert sum(lower > truth for lower, _ in bounds) <= limit
    assert sum(upper < truth for _, upper in bounds) <= limit


def test_quantile_bounds_need_enough_values() -> None:
    assert quantile_bounds([], 0.99, 0.05) == (-math.inf, math.inf)
    assert quantile_bounds(list(range(298)), 0.99, 0.05)[1] == math.inf
    assert quantile_bounds(list(range(299)), 0.99, 0.05)[1] == 298
    # The median of 10: 0.9785 for the 2nd to the 9th value (a table in every textbook).
    assert quantile_bounds(list(range(1, 11)), 0.5, 0.0125) == (2, 9)
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile_bounds([1.0], 1.0, 0.05)


def test_a_noisy_teacher_is_found_out_and_a_firm_one_is_not() -> None:
    rng = np.random.default_rng(12)

    def same(a: str, b: str) -> bool:
        return a == b

    noisy = [("a", "b" if rng.random() < 0.2 else "a") for _ in range(300)]
    assert teacher_agreement(noisy, same, 0.95, 0.05).verdict == "failed"
    assert teacher_agreement([("a", "a")] * 300, same, 0.95, 0.05).verdict == "passed"
    wrongly = sum(
        teacher_agreement([("a", "b" if x else "a") for x in rng.random(300) < 0.05], same, 0.95, 0.1).verdict
        == "failed"
        for _ in range(150)
    )
    assert wrongly <= 15 + 3 * math.sqrt(13.5)


def test_a_question_asked_often_counts_once() -> None:
    asked = [("q", "a"), ("p", "x"), ("q", "b"), ("q", "a"), ("r", "y"), ("r", "y")]
    assert repeats(asked) == [("a", "b"), ("y", "y")]
