"""What a model says of a batch, as objectives take it, and the checks that every objective makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stillhouse.models.port import ModelError


@dataclass(frozen=True, slots=True)
class Outputs:
    """One model's outputs for one batch of B texts; what an objective does not need may be missing.

    `logits` [B, C]; `states` hidden states [B, n, width] by module path; `attention` maps [B, heads, n, n] by module
    path, rows summing to 1; `embedding`, one vector a text, [B, d]; `mask` [B, n] is 0 for padding. Any float type.
    """

    logits: Tensor | None = None
    states: Mapping[str, Tensor] = field(default_factory=dict)
    attention: Mapping[str, Tensor] = field(default_factory=dict)
    embedding: Tensor | None = None
    mask: Tensor | None = None


def at_least_float32(values: Tensor) -> Tensor:
    """`values` for a loss: half precision becomes float32, float32 and float64 stay, so that gradients can be checked.

    >>> at_least_float32(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return values if values.dtype == torch.float64 else values.float()


def require_same_shape(what: str, student: Tensor, teacher: Tensor, dims: int | None = None) -> None:
    """Raises `ModelError` where two tensors that are compared entry by entry differ in shape, with both shapes.

    `dims`: how many dimensions both must have.

    >>> require_same_shape("logits", torch.zeros(2, 3), torch.zeros(2, 4))
    Traceback (most recent call last):
    ...
    stillhouse.models.port.ModelError: The student's logits are [2, 3], the teacher's [2, 4]; they must be the same.
    """
    if student.shape != teacher.shape:
        raise ModelError(
            f"The student's {what} are {shape_of(student)}, the teacher's {shape_of(teacher)}; they must be the same."
        )
    if dims is not None and student.dim() != dims:
        raise ModelError(f"The {what} are {shape_of(student)}; this objective takes {dims} dimensions.")


def require_rows(rows: Tensor, **each: Tensor | float | None) -> None:
    """Raises `ModelError`, with both shapes, where one of `each` is not one number for each of the B rows of `rows`.

    `rows` [B, ...]; what is None, or one number for all (a float, a tensor of no dimensions), fits any.

    >>> require_rows(torch.zeros(2, 3), labels=torch.zeros(3), weight=None)
    Traceback (most recent call last):
    ...
    stillhouse.models.port.ModelError: The labels are [3] for rows [2, 3]; give one for each row, [2].
    """
    for what, values in each.items():
        if isinstance(values, Tensor) and values.dim() and values.shape != rows.shape[:1]:
            raise ModelError(
                f"The {what} are {shape_of(values)} for rows {shape_of(rows)}; give one for each row, [{len(rows)}]."
            )


def shape_of(values: Tensor) -> str:
    """The shape as errors write it: `[2, 3]`."""
    return str(list(values.shape))


def mean_of_rows(losses: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean of a batch's losses [B], weighted by `weight` [B]; `ModelError` for another shape."""
    if weight is None:
        return losses.mean()
    require_rows(losses, weights=weight)
    return (losses * weight).sum() / weight.sum()
