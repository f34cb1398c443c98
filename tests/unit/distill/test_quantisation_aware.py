"""Rounding in closed form, its gradient, and that learning with it mends what rounding breaks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stillhouse.distill.quantisation_aware import RoundedWeight, rounded, scales, straight_through, train_rounded
from stillhouse.models.port import ModelError


def test_values_are_on_the_grid() -> None:
    x = torch.tensor([[0.24, -0.26, 1.0], [0.0, 10.0, -9.9]])
    found = straight_through(x, scales(x, 4), 4)
    # Scales are 1 / 4 and 10 / 4; halves are rounded to even.
    torch.testing.assert_close(found, torch.tensor([[0.25, -0.25, 1.0], [0.0, 10.0, -10.0]]))
    assert torch.equal(straight_through(found, scales(found, 4), 4), found), "rounding twice changes nothing"
    assert torch.equal(straight_through(torch.zeros(2, 3), scales(torch.zeros(2, 3), 7), 7), torch.zeros(2, 3))


def test_no_value_moves_by_more_than_half_a_step() -> None:
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    step = scales(x, 127)
    assert ((straight_through(x, step, 127) - x).abs() <= step / 2 + 1e-7).all()


def test_the_gradient_is_that_of_clamping() -> None:
    x = torch.tensor([0.4, -0.3, 2.4, -9.0], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(0.5, dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    (straight_through(x, scale, 4) * weights).sum().backward()
    # 2.4 / 0.5 rounds to 5 steps, one more than there are; so do -9.
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 0.0, 0.0]


def test_what_follows_rounding_has_its_true_gradient() -> None:
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    x = straight_through(torch.randn(2, 4, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64), 127)
    assert torch.autograd.gradcheck(lambda w: torch.tanh(x @ w.T), (weight,))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match=r"Scales \[3\] do not fit values \[2, 4\]"):
        straight_through(torch.ones(2, 4), torch.ones(3), 127)
    with pytest.raises(ModelError, match="0 levels"):
        straight_through(torch.ones(2), torch.tensor(1.0), 0)
    with pytest.raises(ModelError, match="no linear layers"), rounded(nn.Sequential(nn.ReLU())):
        pass
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ModelError, match="nothing can learn"):
        train_rounded(frozen, [], lambda said, wanted: said.sum())
    with pytest.raises(ModelError, match="no batches"):
        train_rounded(nn.Linear(2, 2), [], lambda said, wanted: said.sum())


def test_the_module_is_its_own_again_afterwards() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x, names = torch.randn(4, 6), {name for name, _ in module.named_parameters()}
    before = module(x)
    with rounded(module, levels=3) as layers:
        assert layers == ["0", "2"]
        assert not torch.allclose(module(x), before)
        torch.testing.assert_close(module[0].weight, RoundedWeight(3)(module[0].parametrizations.weight.original))
    assert torch.equal(module(x), before)
    assert {name for name, _ in module.named_parameters()} == names


def test_learning_with_rounding_mends_what_rounding_breaks() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x = torch.randn(512, 16, generator=generator)
    teacher = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
    answers = teacher(x).detach()
    student = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
    student.load_state_dict(teacher.state_dict())

    def loss(said: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(said, wanted)

    with torch.no_grad(), rounded(student, levels=3):
        before = float(loss(student(x[256:]), answers[256:]))
    batches = [((x[i : i + 64],), answers[i : i + 64]) for _ in range(60) for i in range(0, 256, 64)]
    told = train_rounded(student, batches, loss, learning_rate=2e-3, levels=3)
    with torch.no_grad(), rounded(student, levels=3):
        after = float(loss(student(x[256:]), answers[256:]))
    assert told.steps == 240
    assert after < 0.8 * before, "on texts that it did not learn from"
