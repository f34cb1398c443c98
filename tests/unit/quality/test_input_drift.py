"""Label-free input drift: exact p-values, false alarms over a long run of windows, and what is noticed."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from stillhouse.quality.input_drift import (
    HORIZON,
    ks_tail,
    level_of,
    mmd_permutation,
    permutations_for,
    softmax_ks,
)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_the_ks_tail_is_scipys_exact_one(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.random(n), random.random(n)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            expected = ks_2samp(a, b, method="exact")
        except RuntimeWarning:  # scipy's own sum went astray, near p = 1: it would answer with the asymptotic one
            assume(False)
    assert ks_tail(round(expected.statistic * n), n) == pytest.approx(expected.pvalue, abs=1e-9)
    assert softmax_ks(a[:, None], b[:, None]) == pytest.approx(expected.pvalue, abs=1e-9)


def test_columns_are_paid_for_and_ties_never_help() -> None:
    random = np.random.default_rng(1)
    a, b = random.random((80, 6)), random.random((80, 6)) + 0.2
    alone = min(softmax_ks(a[:, [c]], b[:, [c]]) for c in range(6))
    assert softmax_ks(a, b) == pytest.approx(min(1.0, 6 * alone))
    assert softmax_ks(np.zeros((50, 3)), np.zeros((50, 3))) == 1.0
    tied = ks_2samp(np.round(a[:, 0], 1), np.round(b[:, 0], 1), method="exact").pvalue
    assert softmax_ks(np.round(a[:, :1], 1), np.round(b[:, :1], 1)) == pytest.approx(tied, abs=1e-9)


@given(st.integers(2, 15), st.integers(2, 15), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_mmd_p_values_are_repeatable_and_never_smaller_than_possible(n: int, m: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(n, 3)), random.normal(size=(m, 3))
    p = mmd_permutation(a, b, permutations=99, seed=7)
    assert 1 / 100 <= p <= 1
    assert mmd_permutation(a, b, permutations=99, seed=7) == p
    assert mmd_permutation(np.ones((n, 3)), np.ones((m, 3)), permutations=99, seed=7) == 1.0


def test_mmd_p_values_are_uniform_or_larger_without_a_change() -> None:
    random = np.random.default_rng(3)
    p = np.array(
        [
            mmd_permutation(random.normal(size=(25, 4)), random.normal(size=(25, 4)), permutations=199, seed=i)
            for i in range(1200)
        ]
    )
    for level in (0.01, 0.05, 0.2):
        # Three standard errors above the promise.
        assert (p <= level).mean() <= level + 3 * np.sqrt(level / len(p))
    assert (p <= 0.2).mean() > 0.12  # and power is not thrown away


def test_false_alarms_over_the_whole_horizon_are_at_most_what_was_allowed() -> None:
    """One reference, windows until the horizon is reached, both tests: 160 such lives, a fifth of them may alarm."""
    allowed, window, lives = 0.2, 500, 160
    level = level_of(allowed, window) / 2
    permutations = permutations_for(level)
    random = np.random.default_rng(5)
    alarmed = 0
    for life in range(lives):
        # Skewed classes as a student's softmax has them; 40 rows stand for a window, as p-values are exact for any n.
        def draw() -> tuple[np.ndarray, np.ndarray]:
            kinds = random.choice(5, size=40, p=[0.5, 0.2, 0.15, 0.1, 0.05])
            return softmax(4 * np.eye(5)[kinds] + random.normal(size=(40, 5))), random.normal(
                size=(40, 6)
            ) + 0.5 * kinds[:, None]

        scores, points = draw()
        for number in range(HORIZON // window):
            new_scores, new_points = draw()
            ks = softmax_ks(scores, new_scores)
            mmd = mmd_permutation(points, new_points, permutations=permutations, seed=1000 * life + number)
            if min(ks, mmd) <= level:
                alarmed += 1
                break
    assert alarmed / lives <= allowed + 2 * np.sqrt(allowed * (1 - allowed) / lives)


@pytest.mark.parametrize("change", ["classes", "words"])
def test_a_change_is_noticed_in_the_first_window(change: str) -> None:
    random = np.random.default_rng(8)
    level = level_of(0.05, 500) / 3

    def draw(shares: list[float], shift: float) -> tuple[np.ndarray, np.ndarray]:
        kinds = random.choice(3, size=500, p=shares)
        return softmax(4 * np.eye(3)[kinds] + random.normal(size=(500, 3))), random.normal(size=(500, 16)) + shift

    scores, points = draw([0.6, 0.3, 0.1], 0.0)
    new_scores, new_points = draw(
        [0.4, 0.3, 0.3] if change == "classes" else [0.6, 0.3, 0.1], 0.25 * (change == "words")
    )
    ks = softmax_ks(scores, new_scores)
    mmd = mmd_permutation(points, new_points, permutations=permutations_for(level), seed=1)
    assert (ks <= level) == (change == "classes")
    assert (mmd <= level) == (change == "words")


@pytest.mark.parametrize(
    "call",
    [
        lambda: level_of(0.0, 500),
        lambda: level_of(0.05, HORIZON + 1),
        lambda: softmax_ks(np.zeros((3, 2)), np.zeros((4, 2))),
        lambda: mmd_permutation(np.zeros((0, 2)), np.zeros((4, 2)), permutations=9, seed=0),
    ],
)
def test_impossible_arguments_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"chance|impossible|shape|compared"):
        call()
