"""Quantisation-aware training: the student learns with the rounding that int8 will do to it (Jacob et al. 1712.05877).

Forward, weights and activations are rounded to the grid that they will have,

    q(x) = s * clamp(round(x / s), -L, L)

where s is the largest magnitude over L, of each output of a weight matrix, and of each row of activations (as dynamic
int8 has them). Backward, rounding is taken for the identity where nothing was clamped: the straight-through estimator
(Bengio et al. 1308.3432; section 3 of Jacob et al.). Afterwards the module is as it was, with weights that rounding
hurts less, and is exported by the same road as any other.

Example:
    >>> import torch
    >>> x = torch.tensor([0.30, -1.27, 5.0], requires_grad=True)
    >>> rounded = straight_through(x, torch.tensor(0.01), 127)
    >>> [round(value, 2) for value in rounded.tolist()]
    [0.3, -1.27, 1.27]
    >>> _ = rounded.sum().backward()
    >>> x.grad.tolist()
    [1.0, 1.0, 0.0]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stillhouse.models.port import ModelError

WEIGHT_LEVELS: Final = 63  # 7 bits, as `export` quantises matrices
ACTIVATION_LEVELS: Final = 127
SMALLEST: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Tuned:
    """Steps taken, and the loss with rounding before the first and at the last of them."""

    steps: int
    loss_before: float
    loss_after: float


class _StraightThrough(torch.autograd.Function):
    """Rounding to a grid; its gradient is that of clamping alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, levels: int) -> Tensor:
        """`x` on the grid of `scale`, at most `levels` steps from 0."""
        steps = torch.round(x / scale)
        ctx.save_for_backward(steps.abs() <= levels)
        return steps.clamp(-levels, levels) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient where nothing was clamped, 0 elsewhere."""
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None


class RoundedWeight(nn.Module):
    """A parametrisation: the weight as int8 will hold it, one scale a row [out]."""

    def __init__(self, levels: int = WEIGHT_LEVELS) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, weight: Tensor) -> Tensor:
        """`weight` [out, in], rounded."""
        return straight_through(weight, scales(weight, self.levels), self.levels)


def straight_through(x: Tensor, scale: Tensor, levels: int) -> Tensor:
    """`x` rounded to multiples of `scale` (that broadcasts), clamped to `levels` of them; see the module for gradients.

    Raises `ModelError` where `scale` does not broadcast to `x`, or `levels` is under 1.
    """
    if levels < 1:
        raise ModelError(f"{levels} levels cannot hold a number; int8 has 127.")
    sizes = list(x.shape)[max(0, x.dim() - scale.dim()) :]
    if scale.dim() > x.dim() or any(one not in (1, size) for one, size in zip(scale.shape, sizes, strict=True)):
        raise ModelError(f"Scales {list(scale.shape)} do not fit values {list(x.shape)}; give one a row, or one.")
    rounded: Tensor = _StraightThrough.apply(x, scale, levels)  # type: ignore[no-untyped-call]
    return rounded


def scales(x: Tensor, levels: int) -> Tensor:
    """One scale for each row of `x` [..., n]: [..., 1], the largest magnitude over `levels`; no gradient."""
    return (x.detach().abs().amax(dim=-1, keepdim=True) / levels).clamp(min=SMALLEST)


@contextmanager
def rounded(module: nn.Module, levels: int = WEIGHT_LEVELS) -> Iterator[list[str]]:
    """Inside, every linear layer of `module` computes with rounded weights and inputs; gives their names.

    Weights learn beneath the rounding; at the end the module computes in floats again, with what was learned.
    Raises `ModelError` where there is no linear layer.
    """
    found = [(name, one) for name, one in module.named_modules() if isinstance(one, nn.Linear)]
    if not found:
        raise ModelError(f"{type(module).__name__} has no linear layers; nothing would be rounded.")
    hooks = []
    for _, layer in found:
        parametrize.register_parametrization(layer, "weight", RoundedWeight(levels), unsafe=True)
        hooks.append(layer.register_forward_pre_hook(_round_inputs))
    try:
        yield [name for name, _ in found]
    finally:
        for hook in hooks:
            hook.remove()
        for _, layer in found:
            # The weights underneath, and not the rounded ones: rounding is the export's to do.
            learned = dict(layer.named_parameters())["parametrizations.weight.original"].detach().clone()
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            with torch.no_grad():
                layer.weight.copy_(learned)


def train_rounded(
    module: nn.Module,
    batches: Iterable[tuple[tuple[Tensor, ...], Tensor]],
    loss_of: Callable[[Any, Tensor], Tensor],
    *,
    learning_rate: float = 1e-4,
    levels: int = WEIGHT_LEVELS,
) -> Tuned:
    """One step of Adam for each of `batches` of (inputs, targets), with rounding; changes `module` in place.

    `loss_of(outputs, targets)` gives a scalar. What does not require a gradient stays as it is. Raises `ModelError`
    where nothing learns, or there are no batches.
    """
    learning = [weight.requires_grad for weight in module.parameters()]
    if not any(learning):
        raise ModelError("No weight requires a gradient, so nothing can learn to be rounded.")
    before = after = float("nan")
    steps = 0
    with rounded(module, levels):
        optimizer = torch.optim.Adam([one for one in module.parameters() if one.requires_grad], lr=learning_rate)
        for inputs, targets in batches:
            loss = loss_of(module(*inputs), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            after = float(loss.detach())
            before = after if steps == 0 else before
            steps += 1
    if steps == 0:
        raise ModelError("There are no batches to learn from; give some.")
    return Tuned(steps, before, after)


def _round_inputs(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x = given[0]
    return (straight_through(x, scales(x, ACTIVATION_LEVELS), ACTIVATION_LEVELS), *given[1:])
