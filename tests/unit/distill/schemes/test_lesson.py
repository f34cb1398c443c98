from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from stillhouse.distill.outputs import Outputs
from stillhouse.distill.response.soft_targets import soft_target_loss
from stillhouse.distill.schemes.lesson import Lesson, direct
from stillhouse.models.port import ModelError
from tests.unit.distill.schemes.lessons import HARD, SOFT, Net, agreement, lesson


def test_without_a_teacher_the_labels_teach_and_with_one_both_do() -> None:
    logits, places = torch.randn(4, 3), torch.tensor([3, 1, 0, 2])
    assert torch.equal(lesson(soft=None).taught(logits, places), functional.cross_entropy(logits, HARD[places]))
    expected = soft_target_loss(logits, SOFT[places], HARD[places], 2.0, 0.2)
    assert torch.equal(lesson().taught(logits, places), expected)


def test_direct_distillation_learns_and_repeats_itself() -> None:
    first, second = Net(0), Net(0)
    direct(first, lesson())
    direct(second, lesson())
    assert agreement(first) > 0.9
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_parameter_learns_at_its_own_rate() -> None:
    student, before = Net(0), Net(0)
    direct(student, lesson(rate_of=lambda name: 0.0 if name.startswith("head") else 1.0))
    still = {name for name, value in student.named_parameters() if torch.equal(value, before.get_parameter(name))}
    assert still == {name for name, _ in student.named_parameters() if name.startswith("head")}
    assert len(still) < len(list(student.parameters()))


def test_the_epoch_that_select_likes_best_is_kept() -> None:
    seen: list[float] = []

    def select(module: nn.Module) -> float:
        seen.append(float(module.head.bias.detach().sum()))
        return float(len(seen) != 2)  # the second is the best

    student = Net(0)
    direct(student, lesson(select=select))
    assert float(student.head.bias.detach().sum()) == seen[1]
    assert len(seen) == 5  # and three epochs without a better one end it


def test_checkpoints_of_another_lesson_are_not_resumed(tmp_path) -> None:
    student, other = Net(0), Net(0)
    assert len(direct(student, lesson(checkpoint_dir=tmp_path))) == 8
    again = Net(0)
    assert direct(again, lesson(checkpoint_dir=tmp_path)) == []  # it is done
    assert torch.equal(student.head.weight, again.head.weight)
    assert len(direct(other, lesson(checkpoint_dir=tmp_path, soft=None))) == 8


def test_texts_and_answers_of_different_sizes_are_refused_with_the_shapes() -> None:
    with pytest.raises(ModelError, match=r"\[240\] and the teacher's \[3, 3\]"):
        lesson(soft=torch.eye(3))
    with pytest.raises(ModelError, match="gives no logits"):
        Lesson(lambda module, places: Outputs(), HARD).logits(Net(0), torch.arange(2))
