"""What every objective is checked for in the same way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, float64, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def probabilities(*shape: int, seed: int = 0) -> Tensor:
    return drawn(*shape, seed=seed).softmax(dim=-1)


def gradient_is_right(loss: Callable[[Tensor], Tensor], at: Tensor) -> bool:
    """Whether autograd's gradient is the numerical one, in float64."""
    return torch.autograd.gradcheck(loss, (at.clone().requires_grad_(),), raise_exception=True)


def descended(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int = 200, rate: float = 0.05) -> Tensor:
    """Where Adam gets to from `start`."""
    here = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([here], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(here).backward()
        optimizer.step()
    return here.detach()
