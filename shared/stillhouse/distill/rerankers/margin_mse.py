"""MarginMSE: the student's margins between documents should be the teacher's (Hofstätter et al. 2010.02666)."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.distill.rerankers.scores import fitting, standardise


def margin_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None, relevance: Tensor | None = None) -> Tensor:
    """mean over pairs (p, n) of ((s_p - s_n) - (z_p - z_n))^2, and over lists; z as in `standardise`.

    With `relevance` a pair is a document and one that is less relevant, as in the paper; without, every two documents
    of a list are. All float [lists, documents]. Lists without a pair count 0. Raises `ModelError` for shapes.

    Example:
        >>> student, teacher = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]])
        >>> float(margin_mse(student, teacher))  # margins 3 and 2
        1.0
    """
    there = fitting(student, teacher, mask, "the teacher's")
    wanted = standardise(teacher, there)
    differences = (_margins(student) - _margins(wanted)).square()
    pairs = there.unsqueeze(2) & there.unsqueeze(1)
    if relevance is None:
        pairs = pairs & torch.ones_like(pairs).triu(diagonal=1)
    else:
        fitting(student, relevance, mask, "relevance's")
        pairs = pairs & (_margins(relevance) > 0)
    counts = pairs.sum(dim=(1, 2)).clamp(min=1)
    return ((differences * pairs).sum(dim=(1, 2)) / counts).mean()


def _margins(scores: Tensor) -> Tensor:
    """Every document's score less every other's, [lists, documents, documents]."""
    return scores.unsqueeze(2) - scores.unsqueeze(1)
