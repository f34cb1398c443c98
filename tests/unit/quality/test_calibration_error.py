"""The calibration error's bounds: how often they miss over all looks, and what the estimate is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.quality.calibration_error import calibration_error


def truth(shift: float, bins: int = 10) -> float:
    """The binned error where agreement is confidence - shift, confidence uniform over [0.3, 1]."""
    c = np.linspace(0.3, 1.0, 200_001)
    gap = c - np.clip(c - shift, 0, 1)
    which = np.minimum((c * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(which, -gap, minlength=bins)).sum() / c.size)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.2])
def test_each_bound_ever_misses_at_most_alpha(shift: float) -> None:
    rng, alpha, paths, n = np.random.default_rng(77), 0.1, 200, 1500
    above = below = 0
    for _ in range(paths):
        c = rng.uniform(0.3, 1.0, n)
        found = calibration_error(c, rng.random(n) < c - shift, alpha)
        # The bounds are running: the last one is the tightest of all looks.
        above += found.lower[-1] > truth(shift)
        below += found.upper[-1] < truth(shift)
    limit = alpha * paths + 3 * math.sqrt(alpha * (1 - alpha) * paths)
    assert above <= limit
    assert below <= limit


def test_bounds_narrow_and_tell_good_from_bad() -> None:
    rng = np.random.default_rng(3)
    c = rng.uniform(0.5, 1.0, 5000)
    good = calibration_error(c, rng.random(5000) < c, 0.05)
    bad = calibration_error(c, rng.random(5000) < c - 0.3, 0.05)
    assert good.upper[-1] < 0.1
    assert bad.lower[-1] > 0.2
    assert good.upper[-1] < good.upper[500] < good.upper[100]


cases = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50)


@given(cases, st.integers(1, 20))
def test_the_estimate_is_the_definition_and_bounds_are_ordered(told, bins: int) -> None:
    c, y = [confidence for confidence, _ in told], [agrees for _, agrees in told]
    found = calibration_error(c, y, 0.05, bins)
    held: dict[int, list[int]] = {}
    for place, confidence in enumerate(c):
        held.setdefault(min(bins - 1, int(confidence * bins)), []).append(place)
    ece = sum(abs(sum(float(y[i]) - c[i] for i in places)) for places in held.values()) / len(c)
    assert found.estimate[-1] == pytest.approx(ece, abs=1e-9)
    assert (found.lower <= found.upper + 1e-12).all()
    assert ((found.lower >= 0) & (found.upper <= 1)).all()


def test_no_cases_give_no_bounds_and_nonsense_is_refused() -> None:
    assert calibration_error([], [], 0.05).upper.size == 0
    for call in (lambda: calibration_error([1.5], [True], 0.05), lambda: calibration_error([0.5], [True], 0.0)):
        with pytest.raises(ValueError, match="between"):
            call()
