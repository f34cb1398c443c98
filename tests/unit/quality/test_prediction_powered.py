"""People and a checker together: how often bounds miss, good and useless checkers, and the numbers of ppi-python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.quality.betting import mean_lower_bound
from stillhouse.quality.prediction_powered import powered_bounds, powered_mean

shares = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=30)


def population(rng, n: int, rate: float, miss: float, blame: float):
    """People's verdicts at `rate`; the checker misses and blames at those rates."""
    y = (rng.random(n) < rate).astype(float)
    return y, np.where(y == 1, rng.random(n) >= miss, rng.random(n) < blame).astype(float)


@pytest.mark.parametrize(("miss", "blame"), [(0.1, 0.02), (0.5, 0.3), (1.0, 0.0)])
def test_bounds_hold_at_all_looks_with_good_and_bad_checkers(miss: float, blame: float) -> None:
    rng, alpha, paths, rate = np.random.default_rng(11), 0.1, 80, 0.06
    above = below = 0
    for _ in range(paths):
        y, f = population(rng, 1200, rate, miss, blame)
        bounds = [powered_bounds(f[: 3 * n], y[:n], f[:n], alpha) for n in (20, 60, 150, 400)]
        above += max(lower for lower, _ in bounds) > rate
        below += min(upper for _, upper in bounds) < rate
    limit = alpha * paths + 3 * math.sqrt(alpha * (1 - alpha) * paths)
    assert above <= limit
    assert below <= limit


def test_a_good_checker_spares_reviews_and_a_useless_one_costs_little() -> None:
    rng = np.random.default_rng(2)
    y, good = population(rng, 6000, 0.3, 0.0, 0.005)
    n = 200
    lower, upper = powered_bounds(good, y[:n], good[:n], 0.05)
    alone_lower, alone_upper = mean_lower_bound(y[:n], 0.95), 1 - mean_lower_bound(1 - y[:n], 0.95)
    assert upper - lower < 0.6 * (alone_upper - alone_lower)
    useless = (rng.random(6000) < 0.5).astype(float)
    lower, upper = powered_bounds(useless, y[:n], useless[:n], 0.05)
    assert upper - lower < 1.15 * (alone_upper - alone_lower)


def test_the_interval_of_ppi_plus_plus_covers() -> None:
    rng, paths, missed = np.random.default_rng(5), 400, 0
    for _ in range(paths):
        y, f = population(rng, 900, 0.4, 0.15, 0.1)
        found = powered_mean(y[:150], f[:150], f[150:])
        missed += not found.lower <= 0.4 <= found.upper
    assert missed <= 0.05 * paths + 3 * math.sqrt(0.05 * 0.95 * paths)


@pytest.mark.parametrize(
    ("seed", "n", "others", "estimate", "lower", "upper"),
    [
        (1, 60, 500, 0.3021743651552034, 0.25547993405552205, 0.34886879625488476),
        (2, 200, 1000, 0.30160518956265725, 0.27044203664832783, 0.33276834247698667),
        (3, 40, 80, 0.29589287608016057, 0.21451581556564844, 0.3772699365946727),
    ],
)
def test_numbers_are_those_of_ppi_python(seed, n, others, estimate, lower, upper) -> None:
    # ppi_mean_pointestimate and ppi_mean_ci of ppi-python 0.2.3, numpy 2.4.6.
    rng = np.random.default_rng(seed)
    y = (rng.random(n + others) < 0.3).astype(float)
    f = np.clip(0.7 * y + 0.3 * rng.random(n + others), 0, 1)
    found = powered_mean(y[:n], f[:n], f[n:])
    assert found.estimate == pytest.approx(estimate, abs=1e-9)
    assert (found.lower, found.upper) == pytest.approx((lower, upper), abs=1e-9)


def test_without_other_cases_or_without_a_checker_it_is_the_mean() -> None:
    y = np.array([1.0, 0.0, 1.0, 1.0])
    for found in (powered_mean(y, y, []), powered_mean(y, 0 * y, np.zeros(50))):
        assert (found.estimate, found.weight) == (0.75, 0.0)
        assert found.upper - found.estimate == pytest.approx(1.959964 * math.sqrt(0.1875 / 4), abs=1e-6)


@given(shares, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_bounds_are_ordered_and_mirror_each_other(y: list[float], random) -> None:
    f = [value if random.random() < 0.8 else 1 - value for value in y]
    lower, upper = powered_bounds(f + f, y, f, 0.05)
    assert 0.0 <= lower <= upper <= 1.0
    flipped = powered_bounds([1 - v for v in f + f], [1 - v for v in y], [1 - v for v in f], 0.05)
    assert flipped == pytest.approx((1 - upper, 1 - lower), abs=1e-8)


def test_lists_that_do_not_match_are_refused() -> None:
    for call in (lambda: powered_mean([1], [1], []), lambda: powered_bounds([1, 0], [1, 0], [1], 0.05)):
        with pytest.raises(ValueError, match="reviewed"):
            call()
