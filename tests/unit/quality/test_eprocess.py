"""The gate's test: its error rates under a look after every case, computed exactly and simulated, and its algebra."""

from __future__ import annotations

import json
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from stillhouse.quality import AgreementTest
from stillhouse.quality.eprocess import log_evidence_above

CASES = 4000


def judged(agree: int, disagree: int, floor: float = 0.95, alpha: float = 0.05) -> AgreementTest:
    test = AgreementTest(floor, alpha)
    test.update_many(agree, disagree)
    return test


@cache
def boundaries(floor: float, alpha: float, cases: int = CASES) -> tuple[np.ndarray, np.ndarray]:
    """For n = 1..cases: the most disagreements that pass (-1: none), the fewest that fail (n + 1: none)."""
    passes, fails = np.full(cases, -1), np.arange(1, cases + 1) + 1
    passing, failing = -1, 0
    for n in range(1, cases + 1):
        # Both grow with n, and a disagreement more never helps: test_evidence_is_monotone.
        while passing + 1 <= n and judged(n - passing - 1, passing + 1, floor, alpha).verdict == "passed":
            passing += 1
        while failing <= n and judged(n - failing, failing, floor, alpha).verdict != "failed":
            failing += 1
        passes[n - 1], fails[n - 1] = passing, failing
    return passes, fails


@cache
def outcome(floor: float, alpha: float, agreement: float, cases: int = CASES) -> tuple[np.ndarray, np.ndarray]:
    """P(passed by n) and P(failed by n) with a look after every case, exact: forward over the disagreements."""
    passes, fails = boundaries(floor, alpha, cases)
    counts = np.arange(int(fails.max()) + 2)
    undecided = (counts == 0).astype(float)
    passed, failed = np.zeros(cases), np.zeros(cases)
    for i in range(cases):
        undecided[1:] = undecided[1:] * agreement + undecided[:-1] * (1 - agreement)
        undecided[0] *= agreement
        passing, failing = counts <= passes[i], counts >= fails[i]
        passed[i], failed[i] = undecided[passing].sum(), undecided[failing].sum()
        undecided[passing | failing] = 0.0
    return passed.cumsum(), failed.cumsum()


# The shares of alpha that the first and the third student of a task get, and alpha whole.
@pytest.mark.parametrize(("floor", "alpha"), [(0.95, 0.05), (0.95, 0.025), (0.9, 0.05 / 12), (0.8, 0.1)])
def test_wrong_verdicts_are_at_most_alpha_with_a_look_after_every_case(floor: float, alpha: float) -> None:
    passed, failed = outcome(floor, alpha, floor)
    assert 0 < passed[-1] <= alpha
    assert 0 < failed[-1] <= alpha
    worse, _ = outcome(floor, alpha, floor - 0.01)
    _, better = outcome(floor, alpha, floor + 0.01)
    assert worse[-1] < passed[-1]
    assert better[-1] < failed[-1]


def test_wrong_verdicts_in_simulation() -> None:
    passes, fails = boundaries(0.95, 0.05)
    rng = np.random.default_rng(20240501)
    paths = 2500
    disagreements = (rng.random((paths, CASES)) < 0.05).cumsum(axis=1, dtype=np.int32)
    first_pass = np.where((disagreements <= passes).any(1), (disagreements <= passes).argmax(1), CASES)
    first_fail = np.where((disagreements >= fails).any(1), (disagreements >= fails).argmax(1), CASES)
    promoted, failed = (first_pass < first_fail).mean(), (first_fail < first_pass).mean()
    assert promoted <= 0.05
    assert failed <= 0.05
    exact_passed, exact_failed = outcome(0.95, 0.05, 0.95)
    assert promoted == pytest.approx(exact_passed[-1], abs=4 * math.sqrt(0.05 / paths))
    assert failed == pytest.approx(exact_failed[-1], abs=4 * math.sqrt(0.05 / paths))


@pytest.mark.parametrize("agreement", [0.9, 0.95, 0.99])
def test_single_updates_stop_where_the_boundaries_say(agreement: float) -> None:
    passes, fails = boundaries(0.95, 0.05)
    rng = np.random.default_rng(7)
    for _ in range(10):
        test = AgreementTest(0.95, 0.05)
        for agrees in rng.random(800) < agreement:
            test.update(bool(agrees))
            disagree = test.n - test.agreements
            expected = "passed" if disagree <= passes[test.n - 1] else "undecided"
            expected = "failed" if disagree >= fails[test.n - 1] else expected
            assert test.verdict == expected
            if test.verdict != "undecided":
                break


@pytest.mark.parametrize(("agreement", "median"), [(0.97, 600), (0.98, 245), (0.99, 135)])
def test_median_cases_to_pass(agreement: float, median: int) -> None:
    passed, failed = outcome(0.95, 0.05, agreement)
    assert int(np.searchsorted(passed + failed, 0.5)) + 1 == pytest.approx(median, rel=0.03)
    assert passed[-1] > 0.99


@pytest.mark.parametrize("agreement", [0.9, 0.97, 0.98, 0.99])
def test_forecast_is_met_by_most_tests_and_not_by_all(agreement: float) -> None:
    passed, failed = outcome(0.95, 0.05, agreement)
    needed = AgreementTest(0.95, 0.05).needs_more(agreement)
    assert 0.5 < (passed + failed)[needed - 1] < 0.85


def test_a_perfect_student_passes_at_the_forecast_case() -> None:
    test = AgreementTest(0.95, 0.05)
    needed = test.needs_more(1.0)
    assert needed == 88
    for left in range(needed, 0, -1):
        assert test.verdict == "undecided"
        assert test.needs_more(1.0) == left
        test.update(True)
    assert test.verdict == "passed"
    assert test.needs_more() == 0
    assert AgreementTest(0.95, 0.05).needs_more(0.95) == 1_000_000


def test_a_verdict_stays_whatever_comes_later() -> None:
    passed = judged(200, 0)
    passed.update_many(0, 500)
    assert passed.verdict == "passed"
    assert passed.log_e_fail > 100
    restored = AgreementTest.from_dict(passed.to_dict())
    assert restored.verdict == "passed"
    failed = judged(10, 20)
    failed.update_many(10_000, 0)
    assert failed.verdict == "failed"


def test_bounds_hold_at_every_look() -> None:
    rng = np.random.default_rng(11)
    looks = [5, 10, 20, 40, 80, 160, 320, 640]
    truth, missed, paths = 0.96, 0, 200
    for path in rng.random((paths, looks[-1])) < truth:
        inside = True
        for n in looks:
            lower, upper = judged(int(path[:n].sum()), int(n - path[:n].sum())).bounds(0.9)
            inside &= lower <= truth <= upper
        missed += not inside
    assert missed / paths <= 0.1


counts = st.integers(0, 3000)
floors = st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99])


@given(counts, counts, floors)
def test_evidence_is_monotone(agree: int, disagree: int, floor: float) -> None:
    here = judged(agree, disagree, floor)
    better, worse = judged(agree + 1, disagree, floor), judged(agree, disagree + 1, floor)
    swapped = judged(agree + 1, max(disagree - 1, 0), floor)
    slack = 1e-9 * (1 + agree + disagree)
    assert worse.log_e_pass <= here.log_e_pass + slack
    assert better.log_e_fail <= here.log_e_fail + slack
    assert swapped.log_e_pass >= here.log_e_pass - slack
    assert swapped.log_e_fail <= here.log_e_fail + slack
    assert min(here.log_e_pass, here.log_e_fail) <= slack


@given(st.lists(st.booleans(), max_size=300), st.randoms(use_true_random=False), floors)
def test_order_does_not_matter_at_a_fixed_n(cases: list[bool], random, floor: float) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(cases)
    random.shuffle(shuffled)
    one, other = AgreementTest(floor, 0.05), AgreementTest(floor, 0.05)
    for a, b in zip(cases, shuffled, strict=True):
        one.update(a)
        other.update(b)
    batch = judged(sum(cases), len(cases) - sum(cases), floor)
    assert (one.log_e_pass, one.log_e_fail) == (other.log_e_pass, other.log_e_fail)
    assert (one.log_e_pass, one.log_e_fail) == (batch.log_e_pass, batch.log_e_fail)
    assert one.bounds() == other.bounds() == batch.bounds()


@given(counts, counts, floors, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(max_examples=60)
def test_bounds_enclose_the_estimate_and_nest(agree: int, disagree: int, floor: float, confidence: float) -> None:
    test = judged(agree, disagree, floor)
    lower, upper = test.bounds(confidence)
    assert 0.0 <= lower <= upper <= 1.0
    if test.estimate is not None:
        assert lower <= test.estimate <= upper
    wider = test.bounds((1 + confidence) / 2)
    assert wider[0] <= lower
    assert upper <= wider[1]


@given(st.integers(0, 400), st.integers(0, 40), floors, st.sampled_from([0.05, 0.01]))
def test_verdict_and_one_sided_bound_say_the_same(agree: int, disagree: int, floor: float, alpha: float) -> None:
    test = judged(agree, disagree, floor, alpha)
    assert (test.verdict == "passed") == (test.lower_bound(1 - alpha) >= floor - 1e-11)
    assert (test.verdict == "failed") == (test.upper_bound(1 - alpha) <= floor + 1e-11)


@given(st.integers(0, 60), st.integers(0, 60), floors)
@settings(max_examples=60)
def test_closed_form_equals_the_integral(agree: int, disagree: int, floor: float) -> None:
    def ratio(p: float) -> float:
        return (p / floor) ** agree * ((1 - p) / (1 - floor)) ** disagree

    above = quad(ratio, floor, 1, epsabs=0, epsrel=1e-10)[0] / (1 - floor)
    below = quad(ratio, 0, floor, epsabs=0, epsrel=1e-10)[0] / floor
    test = judged(agree, disagree, floor)
    assert test.log_e_pass == pytest.approx(math.log(above), abs=1e-6)
    assert test.log_e_fail == pytest.approx(math.log(below), abs=1e-6)


@pytest.mark.parametrize("floor", [0.5, 0.95, 0.999])
def test_evidence_is_smooth_where_the_formula_changes(floor: float) -> None:
    # One more disagreement always takes the evidence down, by less and less: a seam would show as a bump.
    evidence = np.array([log_evidence_above(500, b, floor) for b in range(5000)])
    steps = np.diff(evidence)
    assert np.isfinite(evidence).all()
    assert (steps < 0).all()
    assert (np.diff(steps)[1000:] > -1e-6).all()


@given(counts, counts, floors)
def test_state_survives_json(agree: int, disagree: int, floor: float) -> None:
    test = judged(agree, disagree, floor, 0.025)
    restored = AgreementTest.from_dict(json.loads(json.dumps(test.to_dict())))
    assert restored.to_dict() == test.to_dict()
    test.update(False)
    restored.update(False)
    assert (restored.n, restored.agreements, restored.verdict) == (test.n, test.agreements, test.verdict)
    assert (restored.log_e_pass, restored.log_e_fail) == (test.log_e_pass, test.log_e_fail)


def test_nothing_seen_says_nothing() -> None:
    test = AgreementTest(0.95, 0.05)
    assert (test.n, test.verdict, test.estimate) == (0, "undecided", None)
    assert test.log_e_pass == pytest.approx(0.0, abs=1e-12)
    assert test.bounds() == (0.0, 1.0)
    assert 100 < test.needs_more() < 2000


@pytest.mark.parametrize(
    "call",
    [
        lambda: AgreementTest(1.0, 0.05),
        lambda: AgreementTest(0.95, 0.0),
        lambda: judged(-1, 0),
        lambda: judged(1, 0).bounds(0.2),
        lambda: judged(1, 0).needs_more(1.5),
        lambda: AgreementTest.from_dict({**judged(1, 0).to_dict(), "verdict": "maybe"}),
    ],
)
def test_impossible_arguments_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"is|cannot"):
        call()
