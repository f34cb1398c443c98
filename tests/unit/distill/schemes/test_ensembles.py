from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.distill.schemes.ensembles import (
    averaged,
    by_class,
    by_confidence,
    by_validation,
    class_weights,
    validation_weights,
)
from stillhouse.distill.schemes.lesson import direct
from stillhouse.models.port import ModelError
from tests.unit.distill.schemes.lessons import HARD, Net, agreement, lesson

TWO = np.array([[[0.8, 0.2], [0.6, 0.4]], [[0.4, 0.6], [0.0, 1.0]]])  # two teachers, two texts, two labels


def test_averages() -> None:
    assert averaged(TWO) == pytest.approx(np.array([[0.6, 0.4], [0.3, 0.7]]))
    assert by_validation(TWO, np.array([3.0, 1.0])) == pytest.approx(np.array([[0.7, 0.3], [0.45, 0.55]]))
    assert by_class(TWO, np.ones((2, 2))) == pytest.approx(averaged(TWO))


def test_confidence_counts_text_by_text() -> None:
    found = by_confidence(TWO)
    entropies = [-(0.6 * np.log(0.6) + 0.4 * np.log(0.4)), 0.0]
    weights = 1 - np.array(entropies) / np.log(2)
    assert found[1] == pytest.approx((weights[:, None] * TWO[:, 1]).sum(axis=0) / weights.sum())
    unsure = np.full((3, 4, 5), 0.2)
    assert by_confidence(unsure) == pytest.approx(unsure[0])


def test_validation_weights_are_the_likeliest_mixture() -> None:
    # Closed form: the first teacher is right on 3 texts and the second on 1, each certain; the weights are the shares.
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    said = np.array([[right, right, right, wrong], [wrong, wrong, wrong, right]])
    assert validation_weights(said, np.zeros(4, np.int64)) == pytest.approx([0.75, 0.25], abs=1e-3)
    random = np.random.default_rng(0)
    said = random.dirichlet([1.0] * 3, size=(4, 60))
    answers = random.integers(0, 3, 60)

    def loss(weights: np.ndarray) -> float:
        return float(-np.log(np.tensordot(weights, said, axes=1)[np.arange(60), answers]).mean())

    best = loss(validation_weights(said, answers))
    assert all(best <= loss(random.dirichlet([1.0] * 4)) + 1e-4 for _ in range(200))


def test_classes_have_the_teachers_that_know_them() -> None:
    answers = np.repeat(np.arange(2), 20)
    knows_0 = np.where(np.arange(40)[:, None] < 20, [0.9, 0.1], [0.6, 0.4])  # says 0 to everything
    knows_both = np.where(np.arange(40)[:, None] < 20, [0.8, 0.2], [0.2, 0.8])
    weights = class_weights(np.stack([knows_0, knows_both]), answers)
    assert weights.sum(axis=0) == pytest.approx([1.0, 1.0])
    assert weights[1, 1] > 0.9
    assert weights[0, 0] > 0.35


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: averaged(TWO[0]), r"\[2, 2\]"),
        (lambda: averaged(TWO * 2), "no probabilities"),
        (lambda: by_validation(TWO, np.ones(3)), r"\(3,\)"),
        (lambda: by_class(TWO, np.ones((3, 2))), r"\(3, 2\)"),
        (lambda: by_class(TWO, np.zeros((2, 2))), "are 0"),
        (lambda: validation_weights(TWO, np.zeros(3, np.int64)), "answered 2 texts and 3 answers"),
    ],
)
def test_what_does_not_fit_is_refused(call, why) -> None:
    with pytest.raises(ModelError, match=why):
        call()


def test_a_student_of_five_noisy_teachers_is_better_than_one_of_a_single_one() -> None:
    random = np.random.default_rng(0)
    logits = 2.0 * np.eye(3)[HARD.numpy()] + random.normal(0.0, 2.0, (5, len(HARD), 3))
    said = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    few = {"alpha": 0.0, "temperature": 1.0}
    of_one, of_five = Net(0), Net(0)
    direct(of_one, lesson(**few), torch.tensor(said[0], dtype=torch.float32))
    direct(of_five, lesson(**few), torch.tensor(averaged(said), dtype=torch.float32))
    assert agreement(of_five) > agreement(of_one)
