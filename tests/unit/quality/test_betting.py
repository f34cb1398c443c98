"""Tests of mean scores: error rates under a look after every case, bounds, and the closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from stillhouse.quality import AgreementTest
from stillhouse.quality.betting import ScoreTest, mean_lower_bound

scores = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]), max_size=60)

LAWS = {
    "right or wrong": (lambda rng, n: (rng.random(n) < 0.9).astype(float), 0.0, 1.0, 0.9),
    "graded": (lambda rng, n: rng.beta(9, 1, n), 0.0, 1.0, 0.9),
    "rare differences": (lambda rng, n: rng.choice([-1.0, 0.0, 1.0], n, p=[0.04, 0.94, 0.02]), -1.0, 1.0, -0.02),
}


@pytest.mark.parametrize("law", LAWS)
def test_wrong_verdicts_are_at_most_alpha_with_a_look_after_every_case(law: str) -> None:
    draw, low, high, mean = LAWS[law]
    rng, alpha, paths = np.random.default_rng(20241), 0.1, 250
    verdicts = {"passed": 0, "failed": 0, "undecided": 0}
    for _ in range(paths):
        test = ScoreTest(mean, alpha, low, high)
        test.update_all(draw(rng, 600))
        verdicts[test.verdict] += 1
    # 25 of each are expected at most; 37 would come by chance in fewer than 1 of 100 such tests.
    assert verdicts["passed"] < 37
    assert verdicts["failed"] < 37


@pytest.mark.parametrize("law", LAWS)
def test_bounds_hold_at_all_looks_together(law: str) -> None:
    draw, low, high, mean = LAWS[law]
    rng, paths, missed = np.random.default_rng(31), 120, 0
    for _ in range(paths):
        path = draw(rng, 640)
        inside = True
        for n in (5, 10, 20, 40, 80, 160, 320, 640):
            unit = (path[:n] - low) / (high - low)
            inside &= mean_lower_bound(unit, 0.95) <= (mean - low) / (high - low) + 1e-9
            inside &= mean_lower_bound(1 - unit, 0.95) <= (high - mean) / (high - low) + 1e-9
        missed += not inside
    assert missed <= 0.1 * paths + 3 * math.sqrt(0.1 * 0.9 * paths)


def test_little_spread_is_decided_sooner() -> None:
    def cases(path) -> int:
        test = ScoreTest(0.9, 0.05)
        for score in path:
            test.update(score)
            if test.verdict == "passed":
                break
        return test.n

    graded = cases(np.clip(np.random.default_rng(5).normal(0.95, 0.02, 600), 0, 1))
    right_or_wrong = cases(([1.0] * 10 + [0.0] + [1.0] * 9) * 40)  # 95 % too
    assert 1.5 * graded < right_or_wrong < 800


def test_capital_is_the_average_over_bets() -> None:
    x, m = [1.0, 0.0, 0.5, 1.0], 0.6
    test = ScoreTest(m, 0.05)
    test.update_all(x)

    def at(quantile: float) -> float:
        c = math.sin(quantile * math.pi / 2) ** 2
        return math.prod(1 - c + c * value / m for value in x)

    # 32 places of the arcsine law stand for all of it.
    assert math.exp(test.log_e_pass) == pytest.approx(quad(at, 0, 1)[0], rel=2e-3)


@given(scores, st.sampled_from([0.3, 0.5, 0.8]), st.sampled_from([0.05, 0.2]))
@settings(max_examples=60, deadline=None)
def test_verdict_and_bounds_say_the_same(xs: list[float], floor: float, alpha: float) -> None:
    test = ScoreTest(floor, alpha)
    test.update_all(xs)
    lower, upper = test.lower_bound(1 - alpha), test.upper_bound(1 - alpha)
    assert 0.0 <= lower <= upper <= 1.0
    if xs:
        assert lower - 1e-9 <= np.mean(xs) <= upper + 1e-9
    assert (test.log_e_pass >= -math.log(alpha)) == (lower >= floor - 1e-9)
    assert (test.log_e_fail >= -math.log(alpha)) == (upper <= floor + 1e-9)


@given(scores, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_changes_no_bound_and_better_scores_lower_none(xs: list[float], random) -> None:
    shuffled = list(xs)
    random.shuffle(shuffled)
    assert mean_lower_bound(xs, 0.95) == pytest.approx(mean_lower_bound(shuffled, 0.95), abs=1e-9)
    better = [min(1.0, x + 0.25) for x in xs]
    assert mean_lower_bound(better, 0.95) >= mean_lower_bound(xs, 0.95) - 1e-9


def test_ranges_are_only_units() -> None:
    one, other = ScoreTest(0.5, 0.05), ScoreTest(0.0, 0.05, -1.0, 1.0)
    for x in (1.0, 1.0, 0.0, 0.5):
        one.update(x)
        other.update(2 * x - 1)
    assert other.log_e_pass == pytest.approx(one.log_e_pass)
    assert other.lower_bound() == pytest.approx(2 * one.lower_bound() - 1)
    assert other.estimate == pytest.approx(0.25)


def test_a_perfect_student_needs_about_what_the_agreement_test_needs() -> None:
    test = ScoreTest(0.95, 0.05)
    while test.verdict == "undecided":
        test.update(1.0)
    assert test.n <= 1.15 * AgreementTest(0.95, 0.05).needs_more(1.0)


def test_the_forecast_falls_as_evidence_grows_and_is_about_right() -> None:
    test = ScoreTest(0.8, 0.05)
    first = test.needs_more()
    test.update_all([0.95] * 20)
    later = test.needs_more()
    assert first > later > 0
    test.update_all([0.95] * later)
    assert test.verdict == "passed"
    assert test.needs_more() == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: ScoreTest(1.0, 0.05),
        lambda: ScoreTest(0.5, 0.0),
        lambda: ScoreTest(0.5, 0.05).update(1.5),
        lambda: mean_lower_bound([0.5], 1.0),
    ],
)
def test_impossible_arguments_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"is|outside"):
        call()
