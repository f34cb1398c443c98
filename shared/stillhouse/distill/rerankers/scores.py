"""What all objectives do with scores of lists: refuse shapes that do not fit, and standardise the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.models.port import ModelError

LEAST_SPREAD = 1e-6


def fitting(student: Tensor, other: Tensor, mask: Tensor | None, what: str) -> Tensor:
    """The mask bool [lists, documents] of what is there. Raises `ModelError`, with the shapes, where these differ.

    `other` is what `what` names: the teacher's scores, or relevance.

    >>> fitting(torch.zeros(1, 3), torch.ones(1, 3), torch.tensor([[1, 1, 0]]), "the teacher's")
    tensor([[ True,  True, False]])
    """
    if student.dim() != 2 or student.shape != other.shape:
        raise ModelError(
            f"Scores of lists need one shape [lists, documents]; the student's is {list(student.shape)}, "
            f"{what} {list(other.shape)}."
        )
    if mask is None:
        return torch.ones(student.shape, dtype=torch.bool, device=student.device)
    if mask.shape != student.shape:
        raise ModelError(f"The mask's shape {list(mask.shape)} is not the scores' {list(student.shape)}.")
    return mask.bool()


def standardise(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Each list's scores with mean 0 and standard deviation 1; a list of equal scores becomes zeros, padding stays 0.

    Teachers are on scales of their own, and of some lists they are surer than of others: standardised, every list
    teaches as much. `scores` float [lists, documents], `mask` bool of the same shape.

    Example:
        >>> standardise(torch.tensor([[1.0, 3.0], [5.0, 5.0]])).tolist()
        [[-1.0, 1.0], [0.0, 0.0]]
    """
    there = fitting(scores, scores, mask, "the same")
    count = there.sum(dim=1, keepdim=True).clamp(min=1)
    centred = (scores - (scores * there).sum(dim=1, keepdim=True) / count) * there
    spread = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    return torch.where(spread > LEAST_SPREAD, centred / spread.clamp(min=LEAST_SPREAD), torch.zeros_like(centred))


def log_softmax(scores: Tensor, there: Tensor) -> Tensor:
    """Log-probabilities of each list's documents, [lists, documents]; padding gets 0, which no sum may count.

    >>> log_softmax(torch.zeros(1, 3), torch.tensor([[True, True, False]])).exp().tolist()
    [[0.5, 0.5, 1.0]]
    """
    filled = scores.masked_fill(~there, -1e9)
    return torch.log_softmax(filled, dim=1).masked_fill(~there, 0.0)
