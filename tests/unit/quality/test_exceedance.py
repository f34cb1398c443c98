"""A rise of a measured value: the limit's confidence, false alarms for heavy tails, delay, and state."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from stillhouse.quality.exceedance import RiseDetector, tolerance_limit


@given(st.integers(100, 2000), st.floats(0.02, 0.3), st.floats(0.001, 0.2))
def test_the_limit_is_the_smallest_order_statistic_that_keeps_its_confidence(n: int, rate: float, delta: float) -> None:
    limit = tolerance_limit(np.arange(n), rate, delta)
    if limit is None:
        assert binom.cdf(0, n, rate) > delta
        return
    above = n - 1 - int(limit)
    assert binom.cdf(above, n, rate) <= delta
    assert binom.cdf(above + 1, n, rate) > delta


def test_too_high_limits_are_as_rare_as_they_say() -> None:
    random = np.random.default_rng(1)
    wrong = sum(
        1 - limit > 0.1  # of a uniform value, the share above the limit
        for limit in (tolerance_limit(random.random(300), 0.1, 0.05) for _ in range(4000))
        if limit is not None
    )
    assert wrong / 4000 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)
    assert wrong / 4000 > 0.02


def test_false_alarms_within_n_values_are_at_most_what_was_promised_whatever_the_tail() -> None:
    """Reference and stream from one Pareto source with infinite variance."""
    delta, run_length, n, lives = 0.02, 20_000, 1000, 400
    random = np.random.default_rng(2)
    alarmed = 0
    for _ in range(lives):
        limit = tolerance_limit(random.pareto(1.5, 400), 0.1, delta)
        assert limit is not None
        detector = RiseDetector(limit, 0.1, run_length)
        for value in random.pareto(1.5, n):
            detector.update(value)
            if detector.alarm:
                alarmed += 1
                break
    promised = delta + n / run_length
    assert alarmed / lives <= promised + 3 * np.sqrt(promised / lives)


def test_a_doubled_latency_is_noticed_within_a_hundred_values() -> None:
    random = np.random.default_rng(3)
    delays = []
    for _ in range(40):
        limit = tolerance_limit(random.lognormal(3.0, 0.4, 500), 0.1, 0.01)
        assert limit is not None
        detector = RiseDetector(limit, 0.1, 1_000_000)
        while not detector.alarm:
            detector.update(random.lognormal(3.0, 0.4) * 2)
        delays.append(detector.n)
    assert np.median(delays) <= 100


def test_one_enormous_value_is_one_exceedance() -> None:
    detector = RiseDetector(10.0, 0.1, 1000)
    for value in (1e12, *[1.0] * 50):
        detector.update(value)
    assert (detector.exceeded, detector.alarm) == (1, False)


@given(st.lists(st.floats(0, 100), max_size=60), st.lists(st.floats(0, 100), max_size=20))
def test_state_survives_json_and_continues_to_the_bit(past: list[float], future: list[float]) -> None:
    detector = RiseDetector(50.0, 0.1, 1000)
    for value in past:
        detector.update(value)
    restored = RiseDetector.from_dict(json.loads(json.dumps(detector.to_dict())))
    for value in future:
        detector.update(value)
        restored.update(value)
    assert restored.to_dict() == detector.to_dict()
    assert (restored.n, restored.statistic) == (detector.n, detector.statistic)


@pytest.mark.parametrize(
    "call",
    [
        lambda: tolerance_limit([1.0], 0.0, 0.1),
        lambda: tolerance_limit([float("nan")] * 100, 0.1, 0.1),
        lambda: RiseDetector(float("inf"), 0.1, 100),
    ],
)
def test_impossible_arguments_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"between|NaN|limit is"):
        call()
