"""What the teacher would have cost: how often the interval holds the truth, and what must hold of it always."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.economics.counterfactual import teacher_total


def test_where_every_call_costs_the_same_there_is_nothing_to_estimate() -> None:
    found = teacher_total(1000, [(0.002, 0.1)] * 30)
    assert found is not None
    assert (found.estimate, found.lower, found.upper) == pytest.approx((2.0, 2.0, 2.0))
    assert teacher_total(1000, [(0.002, 0.1)] * 29) is None
    assert teacher_total(1000, []) is None


def test_a_census_has_no_error() -> None:
    costs = [0.001, 0.004, 0.002, 0.009] * 10
    found = teacher_total(40, [(cost, 1.0) for cost in costs])
    assert found is not None
    assert found.estimate == found.lower == found.upper == pytest.approx(sum(costs))


def test_costs_whose_powers_vanish_are_costs_like_others() -> None:
    found = teacher_total(30, [(0.0, 1.0)] * 29 + [(8e-115, 1.0)])
    assert found is not None
    assert 0.0 <= found.lower <= found.estimate <= found.upper


def test_weights_undo_unequal_chances() -> None:
    """An hour with pi = 1 among hours with pi = 0.1 must not count ten times."""
    found = teacher_total(2000, [(0.01, 1.0)] * 1000 + [(0.002, 0.1)] * 100)
    assert found is not None
    assert found.estimate == pytest.approx(1000 * 0.01 + 1000 * 0.002)


@pytest.mark.parametrize(("pi", "dear"), [(0.05, 0.15), (0.05, 0.05), (0.2, 0.05), (0.2, 0.3)])
def test_the_interval_holds_the_truth_in_95_of_100_draws(pi, dear) -> None:
    """3,000 requests, some of which an LLM had to settle at a multiple of the price, drawn 800 times."""
    rng = np.random.default_rng(7)
    costs = np.where(rng.random(3000) < dear, 0.002 + rng.exponential(0.004, 3000), 0.002)
    truth, held = float(costs.sum()), 0
    for _ in range(800):
        drawn = costs[rng.random(3000) < pi]
        found = teacher_total(3000, [(float(cost), pi) for cost in drawn])
        assert found is not None
        held += found.lower <= truth <= found.upper
    assert held / 800 >= 0.95, held


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 1.0)), min_size=30, max_size=50),
    st.integers(0, 10_000),
    st.floats(0.5, 2.0),
)
def test_it_scales_and_stays_within_the_costs(audits, requests, factor) -> None:
    found = teacher_total(requests, audits)
    assert found is not None
    assert 0.0 <= found.lower <= found.estimate * (1 + 1e-9) + 1e-9
    assert found.estimate <= found.upper * (1 + 1e-9) + 1e-9
    costs = [cost for cost, _ in audits]
    assert requests * min(costs) - 1e-6 <= found.estimate <= requests * max(costs) + 1e-6
    scaled = teacher_total(requests, [(cost * factor, pi) for cost, pi in audits])
    assert scaled is not None
    assert scaled.estimate == pytest.approx(found.estimate * factor, abs=1e-9)


def test_an_impossible_chance_is_refused() -> None:
    with pytest.raises(ValueError, match="pi must be above 0"):
        teacher_total(10, [(0.1, 0.5)] * 30 + [(0.1, 0.0)])
