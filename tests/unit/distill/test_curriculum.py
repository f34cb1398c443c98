from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from stillhouse.distill.curriculum import Curriculum, by_loss, by_teacher_confidence, competence
from stillhouse.distill.fitting import fit
from tests.unit.distill.schemes.lessons import BAGS, HARD, SOFT, Net, agreement


def test_competence_is_the_papers() -> None:
    assert competence(0.0, 0.1) == pytest.approx(0.1)
    assert competence(0.5, 0.1) == pytest.approx(math.sqrt(0.5 * (1 - 0.01) + 0.01))
    assert competence(0.25, 0.2, power=1.0) == pytest.approx(0.25 * 0.8 + 0.2)
    assert competence(1.0) == competence(7.0) == 1.0


def test_difficulties() -> None:
    assert by_teacher_confidence(np.array([[0.7, 0.3], [0.5, 0.5]])) == pytest.approx([0.3, 0.5])
    logits, answers = np.array([[1.0, 0.0], [0.0, 1000.0]]), np.array([0, 1])
    assert by_loss(logits, answers) == pytest.approx([math.log(1 + math.exp(-1)), 0.0])


def test_easy_texts_come_first_and_all_of_them_in_the_end() -> None:
    curriculum = Curriculum.of(np.arange(10.0)[::-1], start=0.2, length=0.5)
    assert curriculum.taught(0.0).tolist() == [8, 9]
    assert curriculum.taught(0.25).tolist() == list(range(10 - int(10 * competence(0.5, 0.2)), 10))
    assert curriculum.taught(0.5).tolist() == list(range(10))
    seen = [set(curriculum.taught(t).tolist()) for t in np.linspace(0, 1, 20)]
    assert all(before <= after for before, after in itertools.pairwise(seen))


def test_texts_equally_hard_come_together_and_there_is_always_one() -> None:
    assert Curriculum.of(np.zeros(4), start=0.1).taught(0.0).tolist() == [0, 1, 2, 3]
    nearly = np.array([0.1, 0.1 + 1e-8, 0.1 - 1e-8], dtype=np.float32)  # a softmax of other order
    assert Curriculum.of(nearly, start=0.1).taught(0.0).tolist() == [0, 1, 2]


def test_an_epoch_has_as_many_batches_as_without_and_gives_each_text_its_turn() -> None:
    curriculum = Curriculum.of(np.arange(10.0), start=0.3, length=1.0)
    places = np.concatenate(curriculum.batches(0.0, 4, seed=0))
    assert [len(batch) for batch in curriculum.batches(0.0, 4, seed=0)] == [4, 4, 2]
    assert sorted(np.bincount(places, minlength=10)[:3]) == [3, 3, 4]
    assert set(places) == {0, 1, 2}
    assert sorted(np.concatenate(curriculum.batches(1.0, 4, seed=0))) == list(range(10))
    again = np.concatenate(curriculum.batches(0.0, 4, seed=0))
    assert (places == again).all()


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: competence(0.5, 0.0), "competence of 0"),
        (lambda: competence(0.5, 0.1, 0.0), "power is 0"),
        (lambda: by_teacher_confidence(np.zeros(3)), r"\(3,\)"),
        (lambda: by_loss(np.zeros((3, 2)), np.zeros(2, np.int64)), r"\(3, 2\).*\(2,\)"),
        (lambda: Curriculum.of(np.array([np.nan])), "one number for each"),
        (lambda: Curriculum.of(np.zeros(2), length=0.0), "cannot take 0"),
    ],
)
def test_bad_input_is_refused(call, why) -> None:
    with pytest.raises(ValueError, match=why):
        call()


def test_a_student_learns_by_curriculum() -> None:
    curriculum = Curriculum.of(by_teacher_confidence(SOFT.numpy()) + np.arange(len(HARD)) * 1e-5)
    student = Net(0)
    fit(
        student,
        lambda epoch, seed: [torch.from_numpy(batch) for batch in curriculum.batches(epoch / 8, 16, seed)],
        lambda places, done: torch.nn.functional.cross_entropy(student(BAGS[places]).logits, HARD[places]),
        epochs=8,
        rate=0.02,
        seed=0,
    )
    assert agreement(student) > 0.9
