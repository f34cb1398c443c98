"""Fixed-sample intervals: coverage computed exactly, and agreement with scipy's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from stillhouse.quality import alpha_share, clopper_pearson, clopper_pearson_upper, exact, wilson


@st.composite
def shares(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 5000))
    return draw(st.integers(0, n)), n


@given(shares(), st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_equal_scipys(share: tuple[int, int], confidence: float) -> None:
    successes, n = share
    result = binomtest(successes, n)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = result.proportion_ci(confidence, method=method)
        assert ours(successes, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-7)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("n", [20, 200, 1000])
def test_upper_bound_is_broken_at_most_delta_of_the_time(rate: float, n: int) -> None:
    errors = np.arange(n + 1)
    bounds = np.array([clopper_pearson_upper(int(k), n, 0.05) for k in errors])
    assert binom.pmf(errors, n, rate)[bounds < rate].sum() <= 0.05


@given(shares(), st.floats(0.001, 0.5))
def test_upper_bound_grows_with_errors_and_shrinks_with_delta(share: tuple[int, int], delta: float) -> None:
    errors, n = share
    bound = clopper_pearson_upper(errors, n, delta)
    assert errors / n < bound or errors == n
    assert clopper_pearson_upper(errors, n, delta / 2) >= bound
    if errors < n:
        assert clopper_pearson_upper(errors + 1, n, delta) > bound


def test_nineteen_of_twenty_says_only_above_75_percent() -> None:
    assert clopper_pearson(19, 20)[0] == pytest.approx(0.7513, abs=1e-4)
    assert wilson(0, 0) == clopper_pearson(0, 0) == (0.0, 1.0)
    assert clopper_pearson_upper(0, 0, 0.05) == 1.0


@pytest.mark.parametrize("call", [lambda: wilson(3, 2), lambda: wilson(-1, 2), lambda: clopper_pearson(1, 2, 1.0)])
def test_impossible_counts_and_levels_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"between 0 and"):
        call()


def test_alpha_shares_sum_to_alpha() -> None:
    assert alpha_share(0.05, 1) == 0.025
    assert sum(alpha_share(0.05, k) for k in range(1, 5000)) == pytest.approx(0.05 * (1 - 1 / 5000))
    with pytest.raises(ValueError, match="k = 1"):
        alpha_share(0.05, 0)
    with pytest.raises(ValueError, match="probability"):
        alpha_share(1.0, 1)


def test_exact_forgives_nothing() -> None:
    assert exact("refund", "refund")
    assert not exact("refund", "Refund")
    assert not exact("refund", "refund ")
