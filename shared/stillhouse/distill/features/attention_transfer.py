"""Attention transfer (Zagoruyko & Komodakis 1612.03928): where the teacher is active, not with what.

The map of states A is F(A) = sum over width of |A|^p, one number a token (section 3.1), of length 1 over the tokens of
a text. Widths may differ, so nothing is projected. The loss is the squared distance of the two maps (equation 2, with
the square that the authors' code has, whose gradient is bounded at 0).

On clinc150 not shown to help: `make bench NAME=methods`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.distill.outputs import at_least_float32, shape_of
from stillhouse.models.port import ModelError


def attention_transfer_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None, power: float = 2.0) -> Tensor:
    """||F(student) - F(teacher)||^2, a mean over texts, between 0 and 2.

    States [B, n, width] of any two widths, `mask` [B, n] 0 for padding. Raises `ModelError` where texts or
    tokens differ.

    >>> states = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    >>> attention_transfer_loss(states, 2 * states.repeat(1, 1, 5)).item()
    0.0
    """
    if student.dim() != 3 or student.shape[:2] != teacher.shape[:2]:
        raise ModelError(
            f"The student's states are {shape_of(student)}, the teacher's {shape_of(teacher)}; texts and tokens "
            "must be the same."
        )
    difference = activation_map(student, mask, power) - activation_map(teacher, mask, power)
    return difference.pow(2).sum(dim=-1).mean()


def activation_map(states: Tensor, mask: Tensor | None = None, power: float = 2.0) -> Tensor:
    """F(states) [B, n] of states [B, n, width], each row of length 1, padding 0.

    >>> activation_map(torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]))
    tensor([[1., 0.]])
    """
    totals = at_least_float32(states).abs().pow(power).sum(dim=-1)
    if mask is not None:
        if mask.shape != totals.shape:
            raise ModelError(
                f"The mask is {shape_of(mask)} and the tokens are {shape_of(totals)}; they must be the same."
            )
        totals = totals * mask.to(totals.dtype)
    return torch.nn.functional.normalize(totals, dim=-1)
