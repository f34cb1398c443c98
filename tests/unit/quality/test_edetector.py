"""The drift detector: average run length without a change, delay with one; simulated with fixed seeds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.quality.edetector import ODDS_RATIOS, ErrorDetector

P0 = 0.05


def simulate(losses: np.ndarray, arl: float) -> np.ndarray:
    """First alarm of each run (column count + 1: none) for losses bool [runs, audits]; the recursion, vectorised."""
    odds = np.array(ODDS_RATIOS) * P0 / (1 - P0)
    q = odds / (1 + odds)
    r = np.zeros((losses.shape[0], len(q)))
    alarm = np.full(losses.shape[0], losses.shape[1] + 1)
    for n, column in enumerate(losses.T, start=1):
        r = (1 + r) * np.where(column[:, None], q / P0, (1 - q) / (1 - P0))
        alarm = np.where((alarm > losses.shape[1]) & (r.mean(axis=1) >= arl), n, alarm)
    return alarm


def test_the_average_run_length_is_at_least_what_was_asked_for() -> None:
    losses = np.random.default_rng(1).random((400, 12_000)) < P0
    assert np.minimum(simulate(losses, 1_000), 12_000).mean() >= 1_000


def test_false_alarms_in_ten_thousand_audits() -> None:
    alarms = simulate(np.random.default_rng(2).random((400, 10_000)) < P0, 1_000_000)
    assert np.mean(alarms <= 10_000) <= 0.01


def test_delay_of_a_doubled_loss_rate_is_below_adwins() -> None:
    rng = np.random.default_rng(3)
    losses = np.concatenate([rng.random((400, 1_000)) < P0, rng.random((400, 3_000)) < 2 * P0], axis=1)
    alarms = simulate(losses, 1_000_000)
    assert np.median(alarms[alarms > 1_000]) - 1_000 < 712


def test_the_simulation_and_the_detector_are_the_same_thing() -> None:
    losses = np.random.default_rng(4).random((1, 2_000)) < 0.12
    detector = ErrorDetector(P0, 10_000)
    first = next(n for n, loss in enumerate(losses[0], start=1) if detector.update(bool(loss)))
    assert first == simulate(losses, 10_000)[0]


@given(st.lists(st.booleans(), max_size=60))
def test_state_survives_json_and_goes_on_alike(losses) -> None:
    detector = ErrorDetector(P0, 1e9)
    for loss in losses:
        detector.update(loss)
    again = ErrorDetector.from_dict(json.loads(json.dumps(detector.to_dict())))
    assert again == detector
    assert again.update(True) == detector.update(True)
    assert again.statistic == detector.statistic


def test_the_alarm_stands() -> None:
    detector = ErrorDetector(P0, 100)
    while not detector.update(True):
        pass
    assert all(detector.update(False) for _ in range(500))


@pytest.mark.parametrize(("p0", "arl"), [(0.0, 100), (1.0, 100), (0.05, 0.5)])
def test_nonsense_is_refused(p0, arl) -> None:
    with pytest.raises(ValueError, match="p0 must be"):
        ErrorDetector(p0, arl)
