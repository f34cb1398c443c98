"""Narrower layers: what is kept, and what least squares mends."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stillhouse.distill.width_pruning import contributions, largest, narrow, refitted
from stillhouse.models.port import ModelError


def test_inputs_that_add_nothing_go_first() -> None:
    torch.manual_seed(0)
    inputs, weight = torch.randn(50, 4), torch.randn(3, 4)
    inputs[:, 1] = 0
    weight[:, 2] = 0
    assert largest(contributions(inputs, weight), 2).tolist() == [0, 3]


def test_least_squares_finds_what_the_kept_inputs_can_say() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    inputs = torch.randn(4000, 4)
    inputs[:, 3] = inputs[:, 0] + inputs[:, 1]  # so that nothing is lost without it
    kept = torch.tensor([0, 1, 2])
    with torch.no_grad():
        made = refitted(layer, kept, inputs[:, kept], layer(inputs))
        cut = inputs[:, kept] @ layer.weight[:, kept].T + layer.bias
        assert (made(inputs[:, kept]) - layer(inputs)).abs().max() < 0.05
        assert (cut - layer(inputs)).abs().max() > 0.5


def test_a_share_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ModelError, match="A share of 0"):
        narrow(None, [], 0.0)
