"""Win rates and savings: error rates under a look after every case."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from stillhouse.quality.cost_reduction import reduction
from stillhouse.quality.wins import drawn_fairly, non_inferiority, win_rate

OUTCOMES = np.array(["win", "loss", "tie"])


def drawn(rng, n: int, win: float, loss: float):
    return rng.choice(OUTCOMES, n, p=[win, loss, 1 - win - loss]).tolist()


@pytest.mark.parametrize(("win", "loss", "floor"), [(0.3, 0.3, 0.5), (0.065, 0.035, 0.65), (0.65, 0.35, 0.65)])
def test_a_win_rate_at_the_floor_passes_and_fails_at_most_alpha(win: float, loss: float, floor: float) -> None:
    rng, alpha, paths = np.random.default_rng(3), 0.1, 120
    verdicts = [win_rate(drawn(rng, 500, win, loss), floor, alpha).verdict for _ in range(paths)]
    limit = alpha * paths + 3 * math.sqrt(alpha * (1 - alpha) * paths)
    assert verdicts.count("passed") <= limit
    assert verdicts.count("failed") <= limit


def test_equal_to_the_margin_is_not_non_inferior_more_often_than_alpha() -> None:
    rng, alpha, paths = np.random.default_rng(4), 0.1, 100
    verdicts = [non_inferiority(drawn(rng, 400, 0.2, 0.3), 0.1, alpha).verdict for _ in range(paths)]
    limit = alpha * paths + 3 * math.sqrt(alpha * (1 - alpha) * paths)
    assert verdicts.count("passed") <= limit
    assert verdicts.count("failed") <= limit
    assert non_inferiority(drawn(rng, 1200, 0.25, 0.22), 0.1, 0.05).verdict == "passed"


def test_ties_say_nothing_about_who_wins() -> None:
    told = ["win", "loss", "win", "win"] * 20
    with_ties = [one for outcome in told for one in (outcome, "tie", "tie")]
    assert win_rate(told, 0.5, 0.05).to_dict() == win_rate(with_ties, 0.5, 0.05).to_dict()
    # At a floor of 1/2 the discordant pairs are those of McNemar's exact test.
    assert win_rate(told, 0.5, 0.05).verdict == "passed"
    assert binomtest(60, 80).pvalue < 0.05


def test_an_order_that_nobody_drew_is_noticed_and_a_drawn_one_hardly_ever() -> None:
    assert drawn_fairly([])
    assert not drawn_fairly([True] * 30)
    rng = np.random.default_rng(6)
    assert sum(not drawn_fairly(rng.random(100) < 0.5) for _ in range(1000)) <= 6


def test_savings_at_the_floor_are_believed_at_most_alpha() -> None:
    rng, alpha, paths, wrong = np.random.default_rng(9), 0.1, 60, {"above": 0, "below": 0}
    for _ in range(paths):
        teacher = rng.gamma(2.0, 0.001, 200).clip(0, 0.02)
        student = np.where(rng.random(200) < 0.1, 5 * teacher, 0.0).clip(0, 0.02)  # 10 % cost 5 times as much
        pairs = list(zip(student.tolist(), teacher.tolist(), strict=True))
        looks = [reduction(pairs[:n], 0.02, alpha)[1:] for n in (20, 60, 200)]
        wrong["above"] += max(lower for lower, _ in looks) > 0.5
        wrong["below"] += min(upper for _, upper in looks) < 0.5
    limit = alpha * paths + 3 * math.sqrt(alpha * (1 - alpha) * paths)
    assert wrong["above"] <= limit
    assert wrong["below"] <= limit


def test_a_steady_saving_is_seen_soon() -> None:
    estimate, lower, upper = reduction([(0.001, 0.01)] * 100, 0.02, 0.05)
    assert estimate == pytest.approx(0.9)
    assert 0.8 < lower < 0.9 < upper
    assert reduction([], 1.0, 0.05) == (None, -1.0, 1.0)
    _, lower, upper = reduction([(0.015, 0.01)] * 400, 0.02, 0.05)
    assert upper < 0
    assert lower < -0.5
