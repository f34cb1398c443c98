from __future__ import annotations

import math

import pytest
import torch

from stillhouse.distill.schemes.lesson import direct
from stillhouse.distill.schemes.mutual import mutual, peer_losses
from stillhouse.models.port import ModelError
from tests.unit.distill.schemes.lessons import NOISY, Net, agreement, lesson, said


def test_two_students_have_the_divergence_from_each_other() -> None:
    one, two = torch.log(torch.tensor([[0.9, 0.1]])), torch.log(torch.tensor([[0.5, 0.5]]))
    towards_two = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    towards_one = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert peer_losses([one, two]).tolist() == pytest.approx([towards_two, towards_one], rel=1e-5)


def test_more_than_two_have_the_mean_over_their_peers() -> None:
    logits = [torch.randn(5, 3, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    pairs = [peer_losses([logits[0], other])[0] for other in logits[1:]]
    assert float(peer_losses(logits)[0]) == pytest.approx(float(sum(pairs)) / 2, rel=1e-5)


def test_its_gradient_is_right_and_reaches_no_peer() -> None:
    torch.manual_seed(0)
    own, peer = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda student: peer_losses([student, peer], 2.0)[0], (own,))
    peer.requires_grad_(True)
    peer_losses([own, peer])[0].backward()
    assert peer.grad is None or not peer.grad.any()


def test_what_does_not_fit_is_refused_with_the_shapes() -> None:
    with pytest.raises(ModelError, match=r"\[2, 3\].*\[2, 4\]"):
        peer_losses([torch.zeros(2, 3), torch.zeros(2, 4)])
    with pytest.raises(ModelError, match="at least 2"):
        peer_losses([torch.zeros(2, 3)])


def test_peers_learn_and_end_nearer_to_each_other_than_students_that_learnt_alone() -> None:
    together, alone = [Net(1), Net(2)], [Net(1), Net(2)]
    mutual(together, lesson(soft=None, hard=NOISY))
    for student in alone:
        direct(student, lesson(soft=None, hard=NOISY))
    assert min(agreement(student) for student in together) > 0.8
    apart = [float(peer_losses([said(one) for one in pair]).mean()) for pair in (together, alone)]
    assert apart[0] < apart[1]
