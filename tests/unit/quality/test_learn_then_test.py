"""Learn-then-Test: two thresholds, and thresholds by group, against a population whose every risk is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest

from stillhouse.quality import clopper_pearson_upper
from stillhouse.quality.learn_then_test import Family, certify_rules, p_values, rejected, two_thresholds

EPSILON, DELTA = 0.05, 0.1
GRID = np.arange(0, 100, 10) / 100
FAMILIES: tuple[Family, ...] = ("fixed_sequence", "holm")


def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence c and novelty v uniform on [0, 1], P(disagree) = 0.3 (1 - c) (0.2 + v)."""
    confidence, novelty = rng.random(n), rng.random(n)
    return confidence, novelty, rng.random(n) >= 0.3 * (1 - confidence) * (0.2 + novelty)


def overall_risk(pair: np.ndarray) -> float:
    """The double integral of P(disagree) over c in [t, 1], v in [0, u]."""
    t, u = pair
    return 0.3 * (1 - t) ** 2 / 2 * (0.2 * u + u * u / 2)


def selective_risk(pair: np.ndarray) -> float:
    t, u = pair
    return 0.3 * (1 - t) / 2 * (0.2 + u / 2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("selective", [False, True])
def test_any_rule_is_wrongly_certified_at_most_delta_of_the_time(family: Family, selective: bool) -> None:
    rng = np.random.default_rng(1)
    # The floor lies among the rules: some keep the promise and some break it.
    epsilon = EPSILON if selective else 0.03
    risk = selective_risk if selective else overall_risk
    wrong, most = 0, []
    for _ in range(400):
        confidence, novelty, agrees = draw(rng, 1000)
        # A walk must begin where enough is served to show anything.
        start = GRID[GRID <= 0.7] if selective else GRID
        pairs, served = two_thresholds(confidence, novelty, start, [0.4, 0.6, 0.8, 1.0])
        kept = certify_rules(served, agrees, epsilon, DELTA, family=family, selective=selective)
        wrong += any(risk(pair) > epsilon for pair in pairs[kept])
        most.append(served[kept].mean(axis=1).max() if kept.any() else 0.0)
    assert max(risk(pair) for pair in pairs) > epsilon
    assert wrong / 400 <= DELTA
    assert np.mean(most) > (0.05 if selective else 0.2)


def test_groups_as_one_family() -> None:
    """Three groups, each with a walk of its own at a third of delta: the chance that any group's promise is broken."""
    rng = np.random.default_rng(2)
    slopes = np.array([0.1, 0.4, 0.9])  # P(disagree | c) = slope (1 - c): the risk of t is slope (1 - t)^2 / 2
    wrong = 0
    for _ in range(300):
        for slope in slopes:
            confidence = rng.random(300)
            agrees = rng.random(300) >= slope * (1 - confidence)
            pairs, served = two_thresholds(confidence, np.zeros(300), GRID, [0.0])
            kept = certify_rules(served, agrees, EPSILON, DELTA / 3)
            if kept.any() and slope * (1 - pairs[kept][:, 0].min()) ** 2 / 2 > EPSILON:
                wrong += 1
                break
    assert wrong / 300 <= DELTA


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0.01, 0.5))
def test_p_values_are_the_exact_binomial_tests(losses: int, trials: int, epsilon: float) -> None:
    losses = min(losses, trials)
    [p] = p_values([losses], [trials], epsilon)
    assert p == pytest.approx(binomtest(losses, trials, epsilon, alternative="less").pvalue, abs=1e-9)
    # The same decision as the bound that thresholds are certified with.
    assert (p <= 0.05) == (clopper_pearson_upper(losses, trials, 0.05) <= epsilon) or abs(p - 0.05) < 1e-9


P = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1))


@given(P, st.floats(0.01, 0.5))
def test_holm_rejects_what_bonferroni_does_and_more(p: np.ndarray, delta: float) -> None:
    marks = rejected(p, delta, "holm")
    assert (marks >= (p <= delta / p.size)).all()
    assert not (marks & (p > delta)).any()
    if marks.any() and not marks.all():
        assert p[marks].max() <= p[~marks].min()


@given(P, st.floats(0.01, 0.5))
def test_a_walk_ends_at_the_first_that_is_not_shown(p: np.ndarray, delta: float) -> None:
    marks = rejected(p, delta, "fixed_sequence")
    assert marks.tolist() == sorted(marks.tolist(), reverse=True)
    assert int(marks.sum()) == next((i for i, value in enumerate(p) if value > delta), p.size)


def test_nothing_served_shows_nothing() -> None:
    assert not certify_rules([[False] * 100], [True] * 100, EPSILON, DELTA, selective=True).any()
    assert certify_rules([[False] * 100], [True] * 100, EPSILON, DELTA).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: certify_rules([[True]], [True, False], 0.1, 0.1),
        lambda: certify_rules([[True]], [True], 0.0, 0.1),
        lambda: certify_rules([[True]], [True], 0.1, 1.0),
        lambda: p_values([2], [1], 0.1),
    ],
)
def test_impossible_arguments_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"same cases|between 0 and 1|give a|counts"):
        call()
