"""Supervised relevance: the listwise cross-entropy with what people judged.

ListNet with top-one probabilities (Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach"),
with gains 2^relevance - 1 in the place of exp(relevance), so that what is not relevant has no share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.distill.rerankers.scores import fitting, log_softmax


def relevance_loss(student: Tensor, relevance: Tensor, mask: Tensor | None = None) -> Tensor:
    """-sum_d p(d) log softmax(student)_d, p = gain / sum of gains; a mean over lists with something relevant; nats.

    `student` float [lists, documents], `relevance` grades >= 0 of the same shape. 0 where no list has anything
    relevant. Raises `ModelError` for shapes that do not fit.

    Example:
        >>> scores, grades = torch.zeros(1, 4), torch.tensor([[0.0, 1.0, 0.0, 0.0]])
        >>> round(float(relevance_loss(scores, grades)), 3)  # log 4: it knows nothing
        1.386
    """
    there = fitting(student, relevance, mask, "relevance's")
    gains = (torch.pow(2.0, relevance.to(student.dtype)) - 1.0) * there
    totals = gains.sum(dim=1)
    judged = totals > 0
    losses = -(gains * log_softmax(student, there)).sum(dim=1) / totals.clamp(min=1e-12)
    return (losses * judged).sum() / judged.sum().clamp(min=1)
