"""Error rates of the agreement test, simulated with a look after every case, and its closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import betainc, betaln

from stillhouse.quality.eprocess import AgreementTest, log_evidence

FLOOR, ALPHA = 0.95, 0.05


def simulate(p: float, runs: int, cases: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """First case at which each run passed and failed (`cases` + 1: never); the formula, vectorised."""
    agreements = np.cumsum(np.random.default_rng(seed).random((runs, cases)) < p, axis=1)
    n = np.arange(1, cases + 1)
    a, b = agreements + 1, n - agreements + 1
    rest = betaln(a, b) - agreements * math.log(FLOOR) - (n - agreements) * math.log1p(-FLOOR)
    with np.errstate(divide="ignore"):
        log_pass = np.log(betainc(b, a, 1 - FLOOR)) + rest - math.log1p(-FLOOR)
        log_fail = np.log(betainc(a, b, FLOOR)) + rest - math.log(FLOOR)

    def first(hit: np.ndarray) -> np.ndarray:
        return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, cases + 1)

    return first(log_pass >= -math.log(ALPHA)), first(log_fail >= -math.log(ALPHA))


@pytest.mark.parametrize("p", [FLOOR, 0.94, 0.9])
def test_a_student_at_or_below_the_floor_passes_at_most_alpha_of_the_time(p) -> None:
    passed, failed = simulate(p, runs=1500, cases=3000, seed=1)
    assert np.mean((passed <= 3000) & (passed < failed)) <= ALPHA


@pytest.mark.parametrize("p", [FLOOR, 0.96, 0.99])
def test_a_student_at_or_above_the_floor_fails_at_most_alpha_of_the_time(p) -> None:
    passed, failed = simulate(p, runs=1500, cases=3000, seed=2)
    assert np.mean((failed <= 3000) & (failed < passed)) <= ALPHA


@pytest.mark.parametrize(("p", "cases"), [(0.97, 600), (0.98, 245), (0.99, 135)])
def test_median_cases_to_a_verdict(p, cases) -> None:
    passed, _ = simulate(p, runs=1500, cases=3000, seed=3)
    assert np.median(passed) == pytest.approx(cases, rel=0.1)


def test_the_simulation_and_the_test_are_the_same_thing() -> None:
    draws = np.random.default_rng(4).random((1, 400)) < 0.985
    passed, _ = simulate(0.985, runs=1, cases=400, seed=4)
    test = AgreementTest(FLOOR, ALPHA)
    verdicts = [test.update(bool(draw)) for draw in draws[0]]
    assert verdicts.index("passed") + 1 == passed[0]


@given(st.integers(0, 60), st.integers(0, 20), st.floats(0.5, 0.99))
def test_closed_form(agree, differ, floor) -> None:
    def likelihood(p: float) -> float:
        return p**agree * (1 - p) ** differ

    log_pass, log_fail = log_evidence(agree, agree + differ, floor)
    above = quad(likelihood, floor, 1)[0] / ((1 - floor) * likelihood(floor))
    below = quad(likelihood, 0, floor)[0] / (floor * likelihood(floor))
    assert math.exp(log_pass) == pytest.approx(above, rel=1e-4)
    assert math.exp(log_fail) == pytest.approx(below, rel=1e-4)


@settings(max_examples=50)
@given(st.lists(st.booleans(), max_size=80))
def test_state_survives_json_and_order_does_not_matter_to_the_evidence(cases) -> None:
    test = AgreementTest(0.9, 1e-30)  # never decided, so that all evidence is counted
    for case in cases:
        test.update(case)
    assert AgreementTest.from_dict(test.to_dict()) == test
    reverse = AgreementTest(0.9, 1e-30)
    for case in reversed(cases):
        reverse.update(case)
    assert (reverse.log_e_pass, reverse.log_e_fail) == (test.log_e_pass, test.log_e_fail)


def test_bounds_hold_the_truth_at_every_look() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(150):
        test = AgreementTest(0.5, 0.05)
        broken = False
        for n, case in enumerate(rng.random(300) < 0.93, start=1):
            test.n += 1
            test.agreements += bool(case)
            if n % 10 == 0:
                lower, upper = test.bounds()
                broken |= not lower <= 0.93 <= upper
        missed += broken
    assert missed / 150 <= 0.05


def test_needs_more_is_what_it_takes() -> None:
    test = AgreementTest(FLOOR, ALPHA)
    for i in range(100):
        test.update(i % 50 != 0)
    assert test.verdict == "undecided"
    more = test.needs_more()
    assert more is not None
    rate = (test.agreements + 1) / (test.n + 2)  # Laplace: 98 of 100 is not taken for 98 % yet
    level = -math.log(ALPHA)
    assert max(log_evidence(test.agreements + round(rate * more), test.n + more, FLOOR)) >= level
    fewer = more - 40
    assert max(log_evidence(test.agreements + round(rate * fewer), test.n + fewer, FLOOR)) < level
    assert AgreementTest(FLOOR, ALPHA).needs_more() is None


def test_the_first_verdict_stands() -> None:
    test = AgreementTest(FLOOR, ALPHA)
    while test.update(True) == "undecided":
        pass
    for _ in range(500):
        test.update(False)
    assert test.verdict == "passed"


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        AgreementTest(1.0, 0.05)
