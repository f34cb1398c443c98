from __future__ import annotations

import math

import pytest
import torch

from stillhouse.distill.outputs import Outputs
from stillhouse.distill.schemes.deeper_layers import from_deeper_layers, from_deepest, hint_loss, pooled
from stillhouse.distill.schemes.lesson import direct
from stillhouse.models.port import ModelError
from tests.unit.distill.schemes.lessons import TEST_BAGS, TEST_HARD, Net, agreement, lesson, said


def test_closed_forms() -> None:
    shallow, deepest = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.9, 0.1]]))
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert float(from_deepest(shallow, deepest)) == pytest.approx(expected, rel=1e-5)
    assert float(hint_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))) == pytest.approx(2.5)


def test_pooling_leaves_padding_out() -> None:
    states = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert float(pooled(Outputs(states={"a": states}, mask=torch.tensor([[1, 1, 0]])), "a")) == 2.0


def test_gradients_are_right_and_reach_no_deeper_layer() -> None:
    torch.manual_seed(0)
    shallow = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    deepest = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda exit_: from_deepest(exit_, deepest, 3.0), (shallow,))
    assert torch.autograd.gradcheck(lambda exit_: hint_loss(exit_, deepest), (shallow,))
    deepest.requires_grad_(True)
    assert (from_deepest(shallow, deepest) + hint_loss(shallow, deepest)).backward() is None
    assert deepest.grad is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match=r"\[2, 3\].*\[2, 4\]"):
        hint_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ModelError, match=r"no states of 'layer.7'.*layer\.0, layer\.1"):
        from_deeper_layers(Net(0), lesson(), ["layer.7"])
    with pytest.raises(ModelError, match=r"\[2, 4\].*\[texts, tokens, width\]"):
        pooled(Outputs(states={"a": torch.zeros(2, 4)}), "a")
    with pytest.raises(ModelError, match="at least one layer"):
        from_deeper_layers(Net(0), lesson(), [])


def test_student_and_exit_learn() -> None:
    student = Net(0)
    epochs, heads = from_deeper_layers(student, lesson(), ["layer.0"])
    assert agreement(student) > 0.9
    with torch.no_grad():
        early = heads["layer.0"](pooled(student(TEST_BAGS), "layer.0"))
    assert float((early.argmax(1) == TEST_HARD).float().mean()) > 0.9
    assert epochs[-1].train_loss < epochs[0].train_loss


def test_without_share_and_hint_the_exit_still_changes_what_is_shared_and_nothing_is_drawn_outside() -> None:
    before = torch.random.get_rng_state()
    student, alone = Net(0), Net(0)
    state = torch.random.get_rng_state()
    from_deeper_layers(student, lesson(epochs=2), ["layer.0"], share=0.0, hint=0.0)
    assert torch.equal(torch.random.get_rng_state(), state)
    direct(alone, lesson(epochs=2))
    assert not torch.equal(said(student), said(alone))
    torch.random.set_rng_state(before)
