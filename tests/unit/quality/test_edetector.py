"""The drift detector: false alarms, delay and state."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.quality import ErrorDetector
from stillhouse.quality.edetector import advance, likelihood_ratios


def alarm_times(
    average_run_length: float, rate: float, paths: int, audits: int, *, p0: float = 0.05, clean: int = 0, seed: int = 1
) -> np.ndarray:
    """Audits to the alarm of each path (audits + 1: none); the rate is p0 for the first `clean` audits."""
    rng = np.random.default_rng(seed)
    ratios = likelihood_ratios(p0)
    state = np.ones((paths, ratios.shape[1]))
    times = np.full(paths, audits + 1)
    for i in range(audits):
        losses = rng.random(paths) < (p0 if i < clean else rate)
        state = advance(state, ratios[losses.astype(int)])
        times[(state.mean(axis=1) >= 1 + average_run_length) & (times > audits)] = i + 1
    return times


def test_single_updates_alarm_when_the_vectorised_run_does() -> None:
    rng = np.random.default_rng(1)
    losses = rng.random((400, 5)) < 0.15  # the draws of alarm_times with 5 paths
    expected = alarm_times(10_000, 0.15, 5, 400)
    for path in range(5):
        detector = ErrorDetector(0.05, 10_000)
        for loss in losses[:, path]:
            detector.update(bool(loss))
            assert detector.alarm == (detector.n >= expected[path])


def test_false_alarms_within_10_000_audits_at_level_1_000_000_are_at_most_1_percent() -> None:
    paths = 2000
    share = (alarm_times(1_000_000, 0.05, paths, 10_000) <= 10_000).mean()
    assert share <= 0.01


@pytest.mark.parametrize(("average_run_length", "audits", "promised"), [(20_000, 2000, 0.1), (2000, 100, 0.05)])
def test_false_alarms_within_n_audits_are_at_most_n_over_the_run_length(
    average_run_length: float, audits: int, promised: float
) -> None:
    paths = 4000
    share = (alarm_times(average_run_length, 0.05, paths, audits, seed=2) <= audits).mean()
    assert share <= promised
    assert share > promised / 10  # the bound is not so loose that delay is thrown away


def test_average_run_length_is_at_least_what_was_asked_for() -> None:
    times = alarm_times(500, 0.05, 1000, 12_000, seed=3)
    assert (times <= 12_000).mean() > 0.98  # hardly any run is cut short, and that only lowers the mean
    assert 500 <= times.mean() <= 2500


def test_a_student_below_the_promise_hardly_ever_alarms() -> None:
    assert (alarm_times(20_000, 0.025, 1000, 4000, seed=4) <= 4000).mean() <= 0.005


@pytest.mark.parametrize(
    ("average_run_length", "rate", "at_most"),
    [(1_000_000, 0.10, 550), (1_000_000, 0.25, 65), (100_000, 0.10, 420), (100_000, 0.25, 50)],
)
def test_delay_after_a_clean_stretch(average_run_length: float, rate: float, at_most: float) -> None:
    # The bar for 5 to 10 % at 1,000,000 is ADWIN's mean delay, 712.
    clean = 500
    times = alarm_times(average_run_length, rate, 800, 4000, clean=clean, seed=5)
    delays = times[times > clean] - clean
    assert (times > 4000).mean() == 0
    assert (times <= clean).mean() < clean / average_run_length + 0.01
    assert delays.mean() <= at_most


def test_a_long_good_past_hides_nothing() -> None:
    detector = ErrorDetector(0.05, 1_000_000)
    for _ in range(20_000):
        detector.update(False)
    for _ in range(12):
        detector.update(True)
    assert detector.alarm


def test_expected_evidence_grows_by_one_an_audit() -> None:
    # M - n is a martingale at p0: one step from any state adds exactly 1 in expectation.
    ratios = likelihood_ratios(0.05)
    state = np.linspace(1.0, 50.0, ratios.shape[1])
    expected = 0.05 * advance(state, ratios[1]) + 0.95 * advance(state, ratios[0])
    assert expected == pytest.approx(state + 1.0)


rates = st.sampled_from([0.001, 0.05, 0.3])


@given(st.lists(st.booleans(), max_size=200), st.integers(0, 200), rates)
def test_a_loss_more_never_lowers_the_statistic(losses: list[bool], where: int, p0: float) -> None:
    more = list(losses)
    if more:
        more[where % len(more)] = True
    one, other = ErrorDetector(p0, 1000), ErrorDetector(p0, 1000)
    for a, b in zip(losses, more, strict=True):
        one.update(a)
        other.update(b)
    assert other.statistic >= one.statistic - 1e-12
    assert other.alarm >= one.alarm


@given(st.lists(st.booleans(), max_size=200), st.lists(st.booleans(), max_size=20), rates)
def test_state_survives_json_and_continues_to_the_bit(past: list[bool], future: list[bool], p0: float) -> None:
    detector = ErrorDetector(p0, 1000)
    for loss in past:
        detector.update(loss)
    restored = ErrorDetector.from_dict(json.loads(json.dumps(detector.to_dict())))
    for loss in future:
        detector.update(loss)
        restored.update(loss)
    assert restored.to_dict() == detector.to_dict()
    assert restored.statistic == detector.statistic


def test_the_alarm_stays_and_nothing_overflows() -> None:
    detector = ErrorDetector(0.0001, 1000)
    for _ in range(2000):
        detector.update(True)
    assert detector.alarm
    assert math.isfinite(detector.statistic)
    json.loads(json.dumps(detector.to_dict(), allow_nan=False))
    for _ in range(100_000):
        detector.update(False)
    assert detector.alarm
    assert ErrorDetector.from_dict(detector.to_dict()).alarm


def test_a_new_detector_is_silent() -> None:
    detector = ErrorDetector(0.05, 100_000)
    assert (detector.n, detector.statistic, detector.alarm) == (0, 0.0, False)
    assert detector.level == pytest.approx(math.log(100_001))


@pytest.mark.parametrize(
    "call",
    [
        lambda: ErrorDetector(0.0, 100),
        lambda: ErrorDetector(0.05, 0.5),
        lambda: ErrorDetector(0.05, math.inf),
        lambda: ErrorDetector.from_dict({**ErrorDetector(0.05, 100).to_dict(), "state": [1.0]}),
    ],
)
def test_impossible_arguments_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"p0 is|average_run_length is|state has"):
        call()
