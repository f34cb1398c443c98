"""The grid that quantised weights and activations lie on, and learning with it: what rounds is learned through.

compressed-tensors' symmetric integers, as a quantised checkpoint holds them: for a channel (or a group of inputs, or
a token's activations) x and b bits

    s = max |x| / ((2^b - 1) / 2),    q = round(clamp(x / s, -2^(b-1), 2^(b-1) - 1)),    x' = s q

W8A8 rounds weights by output channel and each token's activations as they come; W4A16 rounds weights in groups. While
learning, x' is what computes, and the gradient passes as if nothing had been rounded (the straight-through estimator,
Bengio et al. 1308.3432; for whole networks Jacob et al. 1712.05877), so weights move to where rounding them hurts less.

>>> import torch
>>> [round(float(one), 3) for one in on_grid(torch.tensor([[1.0, -0.5, 0.26]]), bits=4)[0]]
[0.933, -0.533, 0.267]
"""

from __future__ import annotations

from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.compression.quantise_job import group_of
from stillhouse.models.port import ModelError

Rounded = Literal["w8a8", "w4a16"]
KEPT: Final = "lm_head"  # as in `quantise_job`: the head is not rounded


def on_grid(values: Tensor, bits: int) -> Tensor:
    """`values` [..., n] rounded to the grid of `bits` bits, one scale for each row of n."""
    scale = values.detach().abs().amax(dim=-1, keepdim=True) / ((2**bits - 1) / 2)
    scale = torch.where(scale == 0, torch.finfo(scale.dtype).eps, scale)
    return (values / scale).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).round() * scale


class _Straight(torch.autograd.Function):
    """`on_grid`, with the gradient of the identity."""

    @staticmethod
    def forward(_: Any, values: Tensor, bits: int) -> Tensor:
        return on_grid(values, bits)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(values: Tensor, bits: int) -> Tensor:
    """`values` on the grid; the gradient passes through unchanged."""
    found: Tensor = _Straight.apply(values, bits)  # type: ignore[no-untyped-call]
    return found


class W8A8Linear(nn.Linear):
    """A linear layer with int8 weights by channel and int8 activations by token, in floating point."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`."""
        return functional.linear(straight_through(input, 8), straight_through(self.weight, 8), self.bias)


class W4A16Linear(nn.Linear):
    """A linear layer with int4 weights in groups of inputs, in floating point."""

    group: int

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`."""
        groups = self.weight.view(self.out_features, -1, self.group)
        return functional.linear(input, straight_through(groups, 4).view_as(self.weight), self.bias)


def round_layers(model: nn.Module, scheme: Rounded) -> int:
    """Let every linear layer of `model` but its head compute on the grid; gives how many. Raises `ModelError`.

    The layers keep their parameters, and `unround_layers` gives them back as they were.
    """
    found = [(name, layer) for name, layer in model.named_modules() if type(layer) is nn.Linear]
    inner = [(name, layer) for name, layer in found if not name.endswith(KEPT)]
    if scheme == "w4a16":
        try:
            group = group_of({name: layer.in_features for name, layer in inner})
        except ValueError as error:
            raise ModelError(f"w4a16: {error}.") from None
    for _, layer in inner:
        layer.__class__ = W8A8Linear if scheme == "w8a8" else W4A16Linear
        if isinstance(layer, W4A16Linear):
            layer.group = group
    return len(inner)


def unround_layers(model: nn.Module) -> None:
    """Plain linear layers again, with the weights that were learned."""
    for layer in model.modules():
        if isinstance(layer, W4A16Linear):
            del layer.group
        if isinstance(layer, W8A8Linear | W4A16Linear):
            layer.__class__ = nn.Linear  # type: ignore[assignment]
