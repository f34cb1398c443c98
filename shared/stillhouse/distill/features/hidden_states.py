"""The student's hidden states become the teacher's: FitNets' hints, and DistilBERT's directions.

FitNets (Romero et al. 1412.6550, equation 3): 1/2 ||teacher - r(student)||^2, here as a mean over entries, with r a
`Projection`. DistilBERT (Sanh et al. 1910.01108, section 2): 1 - cosine of the two vectors of each token.

On clinc150 the cosine helps a little, the squared error is not shown to: `make bench NAME=methods`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.distill.outputs import at_least_float32, require_same_shape, shape_of
from stillhouse.models.port import ModelError


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """1/2 (student - teacher)^2, a mean over width, tokens and texts.

    States [B, n, width], of which `mask` [B, n] says which are real (0 is padding), or vectors [B, width] without one.
    Raises `ModelError` where the shapes differ: a `Projection` makes a student's states as wide as the teacher's.

    >>> hidden_mse(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]])).item()
    1.0
    """
    require_same_shape("hidden states", student, teacher)
    squared = (at_least_float32(student) - teacher).pow(2).mean(dim=-1)
    return 0.5 * _mean_of_tokens(squared, mask)


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - cosine(student, teacher), a mean over tokens and texts, between 0 and 2. Shapes and errors as `hidden_mse`.

    >>> hidden_cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])).item()
    1.0
    """
    require_same_shape("hidden states", student, teacher)
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    return _mean_of_tokens(1.0 - torch.cosine_similarity(student, teacher, dim=-1), mask)


def _mean_of_tokens(losses: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return losses.mean()
    if mask.shape != losses.shape:
        raise ModelError(f"The mask is {shape_of(mask)} and the tokens are {shape_of(losses)}; they must be the same.")
    real = mask.to(losses.dtype)
    return (losses * real).sum() / real.sum().clamp(min=1.0)
