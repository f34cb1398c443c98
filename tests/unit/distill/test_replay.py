from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from stillhouse.distill.data import LabelledText
from stillhouse.distill.fitting import fit, shuffled
from stillhouse.distill.replay import kl_to_previous, probe, replayed


def test_kl_to_previous_is_the_softened_divergence() -> None:
    now, before = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.9, 0.1]]))
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert float(kl_to_previous(now, before, temperature=1.0)) == pytest.approx(expected, rel=1e-5)
    weighted = kl_to_previous(
        torch.cat([now, before]), torch.cat([before, before]), 1.0, weight=torch.tensor([1.0, 3.0])
    )
    assert float(weighted) == pytest.approx(expected / 4, rel=1e-5)


def test_its_gradient_is_right_and_reaches_no_previous() -> None:
    torch.manual_seed(0)
    now = torch.randn(3, 4, requires_grad=True)
    before = torch.randn(3, 4, requires_grad=True)
    kl_to_previous(now, before, 2.0).backward()
    assert before.grad is None
    expected = 2.0 * (functional.softmax(now / 2, -1) - functional.softmax(before / 2, -1)) / 3  # T (q - p) / B
    assert torch.allclose(now.grad, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(3, 5\)"):
        kl_to_previous(now, torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"\(2,\).*\(3, 4\)"):
        kl_to_previous(now, before, weight=torch.ones(2))


def test_replay_is_even_over_labels_and_repeats_itself() -> None:
    old = [LabelledText(f"a {i}", "a") for i in range(50)] + [LabelledText(f"b {i}", "b") for i in range(3)]
    chosen = replayed(old, 10, seed=0)
    assert [text.label for text in chosen].count("b") == 3
    assert len({text.text for text in chosen}) == len(chosen) == 10
    assert chosen == replayed(old, 10, seed=0) != replayed(old, 10, seed=1)
    assert replayed(old, 100, seed=0) == old


def test_probes_say_what_was_lost_and_whether_that_is_chance() -> None:
    suite = [LabelledText(str(i), "yes") for i in range(20)]

    def before(texts):
        return ["yes"] * len(texts)

    def after(texts):
        return ["no" if int(text) < 6 else "yes" for text in texts]

    (found,) = probe({"old": suite}, before, after)
    assert (found.n, found.before, found.after, found.lost, found.gained) == (20, 1.0, 0.7, 6, 0)
    assert found.p_forgot == pytest.approx(0.5**6)
    assert found.lower < 0.7 < found.upper
    (same,) = probe({"old": suite}, before, before)
    assert (same.lost, same.p_forgot) == (0, 1.0)
    with pytest.raises(ValueError, match="'empty' has no texts"):
        probe({"empty": []}, before, after)


def test_the_tie_keeps_what_a_student_knew() -> None:
    """Old texts differ along one axis and new ones along another, and the new ones drag the old axis along."""
    torch.manual_seed(0)
    old = torch.randn(200, 4)
    new = torch.randn(200, 4) + torch.tensor([0.0, 2.0, 0.0, 0.0])
    old_answers, new_answers = (old[:, 0] > 0).long(), (new[:, 0] < 0).long()
    first = nn.Linear(4, 2)
    train(first, old, old_answers)
    kept = first(old).detach()

    def continued(tied: bool) -> nn.Module:
        student = nn.Linear(4, 2)
        student.load_state_dict(first.state_dict())
        train(student, new, new_answers, (lambda: 4.0 * kl_to_previous(student(old), kept)) if tied else None)
        return student

    def right(student: nn.Module) -> float:
        return float((student(old).argmax(1) == old_answers).float().mean())

    assert right(first) > 0.95
    assert right(continued(tied=True)) > right(continued(tied=False)) + 0.2


def train(student: nn.Module, x: torch.Tensor, answers: torch.Tensor, tie=None) -> None:
    fit(
        student,
        lambda epoch, seed: shuffled(len(x), 32, seed),
        lambda places, done: (
            functional.cross_entropy(student(x[places]), answers[places]) + (tie() if tie else torch.zeros(()))
        ),
        epochs=10,
        rate=0.05,
        seed=0,
    )
