"""DIST (Huang et al. 2205.10536): correlations instead of divergences, for a teacher much stronger than its student.

Pearson's correlation of two vectors does not see scale and offset, so that the student matches the teacher's order of
labels for a text (inter-class, equation 8) and of texts for a label (intra-class, equation 9), not its probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.distill.outputs import at_least_float32, require_same_shape
from stillhouse.distill.response.soft_targets import soften


def correlation_loss(
    logits: Tensor, soft: Tensor, temperature: float = 1.0, inter: float = 1.0, intra: float = 1.0
) -> Tensor:
    """T^2 (inter (1 - mean correlation of rows) + intra (1 - mean correlation of columns)), between 0 and 4 T^2.

    `logits` [B, L] and the teacher's probabilities `soft` [B, L] (of temperature 1); B and L at least 2, else a part
    has no correlation and is 1. Raises `ModelError` where the shapes differ.

    >>> soft = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    >>> round(correlation_loss(soft.log(), soft).item(), 6)
    0.0
    """
    require_same_shape("probabilities", logits, soft, dims=2)
    said = torch.softmax(at_least_float32(logits) / temperature, dim=-1)
    wanted = soften(soft, temperature)
    rows = 1.0 - pearson(said, wanted).mean()
    columns = 1.0 - pearson(said.T, wanted.T).mean()
    return temperature**2 * (inter * rows + intra * columns)


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of each row [B] of two tensors [B, n]; 0 for a constant row.

    >>> pearson(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[30.0, 20.0, 10.0]]))
    tensor([-1.0000])
    """
    first = first - first.mean(dim=-1, keepdim=True)
    second = second - second.mean(dim=-1, keepdim=True)
    return torch.cosine_similarity(first, second, dim=-1, eps=1e-8)
