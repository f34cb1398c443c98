"""Bounds, thresholds and the alpha account: closed forms, properties and simulated broken promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from stillhouse.quality.alpha import alpha_share
from stillhouse.quality.binomial import clopper_pearson, clopper_pearson_upper, wilson
from stillhouse.quality.thresholds import SERVE_NOTHING, certify_fixed, choose_threshold

GRID = np.linspace(0, 1, 101)


def population(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Cases whose chance to agree rises with their confidence, from 0.5 to 1."""
    confidence = rng.random(n)
    return confidence, rng.random(n) < 0.5 + 0.5 * confidence


def true_risk(t: float) -> float:
    """P(confidence >= t and different) there: the integral of (1 - c) / 2 from t to 1."""
    return (1 - t) ** 2 / 4


def test_known_values() -> None:
    assert clopper_pearson(19, 20)[0] == pytest.approx(0.7513, abs=1e-4)
    assert clopper_pearson(0, 10) == pytest.approx((0.0, 0.3085), abs=1e-4)
    assert wilson(19, 20) == pytest.approx((0.7639, 0.9911), abs=1e-4)
    assert clopper_pearson(0, 0) == wilson(0, 0) == (0.0, 1.0)


@given(st.integers(0, 50), st.integers(1, 150), st.floats(0.001, 0.5))
def test_the_upper_bound_is_where_so_few_errors_have_probability_delta(errors, more, delta) -> None:
    n = errors + more
    assert binom.cdf(errors, n, clopper_pearson_upper(errors, n, delta)) == pytest.approx(delta, rel=1e-6)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.5, 0.9, 1.0]), st.booleans()), max_size=40), st.floats(0, 0.5))
def test_the_chosen_threshold_is_the_lowest_that_holds(cases, epsilon) -> None:
    confidence = np.array([case[0] for case in cases], dtype=float)
    agrees = np.array([case[1] for case in cases], dtype=bool)
    chosen = choose_threshold(confidence, agrees, epsilon)

    def risk(t: float) -> float:
        return float(((confidence >= t) & ~agrees).sum()) / max(1, len(cases))

    assert risk(chosen.value) == pytest.approx(chosen.risk)
    assert chosen.risk <= epsilon + 1e-12
    lower = [t for t in set(confidence.tolist()) if t < chosen.value]
    assert all(risk(t) > epsilon - 1e-12 for t in lower)
    assert chosen.value <= SERVE_NOTHING


def test_a_certified_promise_is_broken_at_most_delta_of_the_time_and_an_empirical_one_is_not_certified() -> None:
    rng = np.random.default_rng(7)
    broken = empirical = 0
    for _ in range(400):
        confidence, agrees = population(rng, 800)
        certified = certify_fixed(confidence, agrees, 0.05, 0.05, GRID)
        broken += certified is not None and true_risk(certified.value) > 0.05
        empirical += true_risk(choose_threshold(confidence, agrees, 0.05).value) > 0.05
    assert broken / 400 <= 0.05
    assert empirical / 400 > 0.3  # why choosing alone is never enough


def test_the_selective_promise_holds_among_the_served() -> None:
    rng = np.random.default_rng(8)
    broken = 0
    for _ in range(300):
        confidence, agrees = population(rng, 1500)
        certified = certify_fixed(confidence, agrees, 0.1, 0.05, GRID, selective=True)
        # P(different | served from t on) = (1 - t) / 4
        broken += certified is not None and (1 - certified.value) / 4 > 0.1
    assert broken / 300 <= 0.05


def test_too_few_cases_certify_nothing() -> None:
    assert certify_fixed(np.ones(20), np.ones(20, dtype=bool), 0.05, 0.05, [1.0]) is None
    assert choose_threshold(np.array([]), np.array([], dtype=bool), 0.05).value == SERVE_NOTHING


def test_the_account_never_spends_more_than_alpha() -> None:
    assert alpha_share(0.05, 1) == 0.025
    assert sum(alpha_share(0.05, k) for k in range(1, 10_000)) <= 0.05
    with pytest.raises(ValueError, match="k is 0"):
        alpha_share(0.05, 0)
