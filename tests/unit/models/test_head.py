"""The teacher's head: fits what can be fitted, and its confidence means what it says."""

from __future__ import annotations

import numpy as np
import pytest

from stillhouse.models.student import softmax
from stillhouse.models.teacher import calibrate, fit_head


def population(rows: int, labels: int = 4, width: int = 16, seed: int = 0):
    """Unit vectors whose labels are drawn from a known softmax, so the true probabilities are known."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = softmax(vectors @ np.random.default_rng(99).normal(scale=6, size=(width, labels)).astype(np.float32))
    targets = np.array([rng.choice(labels, p=row) for row in truth], dtype=np.int64)
    return vectors, targets, truth


def test_it_learns_known_probabilities() -> None:
    vectors, targets, _ = population(4000)
    held_out = np.arange(4000) % 7 == 0
    head = fit_head(vectors, targets, 4, held_out)
    fresh, _, truth = population(2000, seed=1)
    learnt = softmax(fresh @ head.weights + head.bias, head.temperature)
    assert np.abs(learnt - truth).mean() < 0.03
    assert head.held_out_rows == held_out.sum()
    assert head.held_out_accuracy is not None


def test_the_same_rows_give_the_same_head() -> None:
    vectors, targets, _ = population(300)
    one, two = (fit_head(vectors, targets, 4, np.arange(300) % 5 == 0) for _ in range(2))
    assert np.array_equal(one.weights, two.weights)
    assert one.temperature == two.temperature


def test_few_held_out_rows_calibrate_nothing() -> None:
    vectors, targets, _ = population(40)
    head = fit_head(vectors, targets, 4, np.arange(40) < 5)
    assert (head.temperature, head.held_out_accuracy) == (1.0, None)


@pytest.mark.parametrize("sharpened", [0.5, 3.0])
def test_calibration_finds_the_temperature(sharpened) -> None:
    _, targets, truth = population(6000)
    temperature, _ = calibrate(np.log(truth) * sharpened, targets)
    assert temperature == pytest.approx(sharpened, rel=0.1)
