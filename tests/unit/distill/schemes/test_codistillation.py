from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from stillhouse.distill.schemes.codistillation import codistil, stale_peer_loss
from stillhouse.models.port import ModelError
from tests.unit.distill.schemes.lessons import NOISY, TEST_HARD, Net, agreement, lesson, said


def test_the_target_is_the_mean_of_the_peers_probabilities() -> None:
    own = torch.log(torch.tensor([[0.5, 0.5]]))
    peers = [torch.log(torch.tensor([[0.9, 0.1]])), torch.log(torch.tensor([[0.7, 0.3]]))]
    expected = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert float(stale_peer_loss(own, peers)) == pytest.approx(expected, rel=1e-5)


def test_its_gradient_is_right() -> None:
    torch.manual_seed(0)
    own, peer = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda student: stale_peer_loss(student, [peer], 2.0), (own,))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match=r"\[2, 3\].*\[2, 4\]"):
        stale_peer_loss(torch.zeros(2, 3), [torch.zeros(2, 4)])
    with pytest.raises(ModelError, match="no peers"):
        stale_peer_loss(torch.zeros(2, 3), [])
    with pytest.raises(ModelError, match="at least 2"):
        codistil([Net(0)], lesson())


def test_students_of_parts_learn_what_the_others_saw() -> None:
    alone, together = [Net(1), Net(2), Net(3)], [Net(1), Net(2), Net(3)]
    few = lesson(soft=None, hard=NOISY)
    codistil(alone, few, weight=0.0, apart=True)
    codistil(together, few, apart=True)
    assert sum(map(agreement, together)) > sum(map(agreement, alone))
    assert min(map(agreement, together)) > 0.8


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path) -> None:
    """The stale copies are those of the epoch's start, which is where a run resumes."""

    class Killed(Exception):
        pass

    def run(folder, kill: bool = False) -> torch.Tensor:
        students, asked = [Net(1), Net(2)], []

        def select(student) -> float:
            asked.append(1)
            if kill and len(asked) == 7:  # in the fourth epoch
                raise Killed
            return float(functional.cross_entropy(said(student), TEST_HARD))

        codistil(students, lesson(checkpoint_dir=folder, epochs=5, select=select))
        return said(students[0])

    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill=True)
    assert torch.equal(run(tmp_path / "killed"), whole)
