"""The learnt map from a student's width to its teacher's, the "regressor" of FitNets (Romero et al. 1412.6550, 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stillhouse.distill.outputs import at_least_float32, shape_of
from stillhouse.models.port import ModelError


class Projection(nn.Module):
    """A linear map of the last dimension. Between equal widths it starts as the identity, elsewhere at random.

    It learns beside the student and is thrown away with the teacher.

    >>> import torch
    >>> Projection(4, 6)(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 3, 6])
    """

    def __init__(self, width: int, target: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, target)
        if width == target:
            with torch.no_grad():
                self.linear.weight.copy_(torch.eye(width))
                self.linear.bias.zero_()

    def forward(self, states: Tensor) -> Tensor:
        """`states` [..., width] as [..., target]. Raises `ModelError` for another width."""
        if states.shape[-1] != self.linear.in_features:
            raise ModelError(
                f"The projection takes states of width {self.linear.in_features}; these are {shape_of(states)}."
            )
        projected: Tensor = self.linear(at_least_float32(states))
        return projected
