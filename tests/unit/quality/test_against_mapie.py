"""The same numbers as MAPIE where both compute the same, and never a looser rule where ours is sharper."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from stillhouse.quality import certify_fixed
from stillhouse.quality.calibration_error import calibration_error
from stillhouse.quality.learn_then_test import p_values, rejected

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mapie.metrics.calibration import expected_calibration_error
    from mapie.risk_control import BinaryClassificationController, precision
    from mapie.risk_control.fwer_control import control_fwer
    from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value


@pytest.mark.parametrize(("ours", "theirs"), [("holm", "bonferroni_holm"), ("fixed_sequence", "fixed_sequence")])
def test_the_same_hypotheses_are_rejected(ours, theirs) -> None:
    rng = np.random.default_rng(1)
    for delta in (0.01, 0.05, 0.1, 0.3):
        for _ in range(50):
            p = rng.beta(0.3, 4.0, size=rng.integers(1, 30))
            assert np.flatnonzero(rejected(p, delta, ours)).tolist() == list(control_fwer(p, delta, theirs))


def test_exact_p_values_are_those_of_bentkus_without_his_factor_and_never_above() -> None:
    """For losses of 0 or 1, MAPIE takes the smaller of Hoeffding's bound and the exact binomial probability."""
    n = 400
    losses = np.arange(0, 60)
    exact = p_values(losses, np.full(losses.size, n), 0.1)
    theirs = np.asarray(compute_hoeffding_bentkus_p_value(losses / n, n, 0.1, binary=True)).ravel()
    assert (exact <= theirs + 1e-12).all()
    # MAPIE gets rates and rounds n times the rate up: where that is not whole in floats, it is one loss too many.
    whole = (losses / n * n == losses) & (losses < 0.1 * n)
    assert whole.sum() > 30
    assert exact[whole] == pytest.approx(theirs[whole], rel=1e-9)
    general = np.asarray(compute_hoeffding_bentkus_p_value(losses / n, n, 0.1)).ravel()
    assert (exact <= general + 1e-12).all()
    assert (exact[5:40] < general[5:40]).all()


def test_the_binned_calibration_error_is_the_same() -> None:
    rng = np.random.default_rng(2)
    for bins in (5, 10, 20):
        confidence = rng.random(700)
        agrees = rng.random(700) < confidence**1.5
        # MAPIE counts the edges of the bins.
        edges = {"num_bins": bins + 1, "split_strategy": "uniform"}
        theirs = expected_calibration_error(agrees.astype(int), confidence, **edges)
        assert float(calibration_error(confidence, agrees, 0.05, bins).estimate[-1]) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("slope", [0.1, 0.25, 0.5])
def test_a_walk_certifies_at_least_what_mapie_does(slope) -> None:
    """Among the served, at one target and confidence: MAPIE tests every threshold with a correction, the walk none."""
    rng = np.random.default_rng(3)
    grid = np.arange(50, 100) / 100
    more = 0
    for _ in range(15):
        confidence = rng.random(1500)
        agrees = rng.random(1500) >= slope * (1 - confidence)
        controller = BinaryClassificationController(
            predict_function=lambda x: np.column_stack([1 - x[:, 0], x[:, 0]]),
            risk=precision,
            target_level=0.95,
            confidence_level=0.9,
            list_predict_params=grid,
            best_predict_param_choice="recall",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            controller.calibrate(confidence[:, None], agrees.astype(int))
        valid = np.atleast_1d(np.asarray(controller.valid_predict_params, dtype=float))
        # From where a bound over so many cases can be below 5 % at all.
        found = certify_fixed(confidence, agrees, 0.05, 0.1, grid[grid <= 0.9], selective=True)
        theirs = valid.min() if valid.size else np.inf
        ours = found.value if found is not None else np.inf
        assert ours <= theirs
        more += ours < theirs
    assert slope != 0.25 or more > 3
