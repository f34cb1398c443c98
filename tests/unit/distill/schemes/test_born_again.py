from __future__ import annotations

import pytest
import torch

from stillhouse.distill.schemes.born_again import born_again, mean_answer
from stillhouse.distill.schemes.lesson import direct
from stillhouse.models.port import ModelError
from tests.unit.distill.schemes.lessons import SOFT, Net, agreement, lesson, said


def test_each_generation_learns_from_the_one_before_it_and_the_first_from_the_lesson() -> None:
    first, second, third = born_again(Net, lesson(), generations=3)
    alone = Net(0)
    direct(alone, lesson())
    assert torch.equal(said(first), said(alone))
    taught = Net(2)
    direct(taught, lesson(), lesson().probabilities(second))
    assert torch.equal(said(third), said(taught))
    assert min(agreement(student) for student in (first, second, third)) > 0.9


def test_their_mean_answer_is_a_distribution_for_each_text() -> None:
    made = born_again(Net, lesson(epochs=2), generations=2)
    mean = mean_answer(made, lesson())
    assert mean.shape == SOFT.shape
    assert torch.allclose(mean.sum(dim=1), torch.ones(len(mean)))
    assert torch.allclose(mean, sum(lesson().probabilities(student) for student in made) / 2)


def test_one_generation_is_refused() -> None:
    with pytest.raises(ModelError, match="at least 2"):
        born_again(Net, lesson(), generations=1)
