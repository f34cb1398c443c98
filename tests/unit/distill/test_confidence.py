"""The learned confidence: it finds the probability that it should, and is not fitted to next to nothing."""

from __future__ import annotations

import numpy as np
import pytest

from stillhouse.distill.confidence import FEWEST_OF_EACH, FEWEST_TEXTS, fit_confidence
from stillhouse.quality import certify_fixed, walk_of

WEIGHTS = np.array([2.0, 0.0, 1.0])


def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signals, whether the student agrees, and the true probability that it does."""
    signals = rng.normal(size=(n, 3)) * [1.0, 5.0, 0.5] + [3.0, 0.0, -1.0]
    truth = 1 / (1 + np.exp(-(0.5 + (signals - [3.0, 0.0, -1.0]) @ WEIGHTS)))
    return signals, rng.random(n) < truth, truth


def told(confidence, signals: np.ndarray) -> np.ndarray:
    total = confidence.bias + (signals - confidence.centre) / confidence.scale @ np.array(confidence.weights)
    assert confidence.of(np.array([0.5, 0.5]), signals[0]) == pytest.approx(1 / (1 + np.exp(-total[0])))
    return 1 / (1 + np.exp(-total))


def test_it_tells_the_probability_of_agreeing() -> None:
    rng = np.random.default_rng(0)
    confidence = fit_confidence(*draw(rng, 4000)[:2])
    signals, agrees, truth = draw(rng, 4000)
    said = told(confidence, signals)
    assert np.abs(said - truth).mean() < 0.02
    for low in (0.0, 0.25, 0.5, 0.75):
        among = (said >= low) & (said < low + 0.25)
        assert abs(said[among].mean() - agrees[among].mean()) < 0.04


def test_with_a_hundred_texts_it_still_orders_better_than_one_signal() -> None:
    rng = np.random.default_rng(1)
    signals, agrees, _ = draw(rng, FEWEST_TEXTS)
    fresh, right, _ = draw(rng, 5000)
    said = told(fit_confidence(signals, agrees), fresh)
    assert _auc(said, right) > _auc(fresh[:, 0], right)


def test_too_little_to_learn_from_gives_none() -> None:
    rng = np.random.default_rng(2)
    signals, agrees, _ = draw(rng, FEWEST_TEXTS)
    assert fit_confidence(signals[1:], agrees[1:]) is None
    nearly_all = np.arange(FEWEST_TEXTS) >= FEWEST_OF_EACH - 1
    assert fit_confidence(signals, nearly_all) is None
    assert fit_confidence(signals, ~nearly_all) is None


def test_a_threshold_on_it_keeps_its_promise() -> None:
    """Fitted, walked and certified on three sets: the risk over the population is broken at most delta of the time."""
    rng = np.random.default_rng(3)
    everybody, right, _ = draw(rng, 20_000)
    broken = []
    for _ in range(50):
        confidence = fit_confidence(*draw(rng, 150)[:2])
        sets = [draw(rng, n) for n in (300, 400)]
        (other, agreed), (cases, agrees) = ((told(confidence, found[0]), found[1]) for found in sets)
        walk = walk_of(other, agreed, len(cases), 0.1, selective=True)
        found = certify_fixed(cases, agrees, 0.15, 0.1, walk, selective=True)
        if found is not None:
            served = told(confidence, everybody) >= found.value
            broken.append((~right[served]).mean() > 0.15)
    assert len(broken) > 25
    assert sum(broken) / 50 <= 0.1


def _auc(scores: np.ndarray, right: np.ndarray) -> float:
    ranks = np.argsort(np.argsort(scores))
    n = int(right.sum())
    return float((ranks[right].sum() - n * (n - 1) / 2) / (n * (len(right) - n)))
