"""Scores as they are: the mean squared difference to the teacher's standardised scores.

Regression on what the teacher gives before it is normalised: L = 1 / n sum_d (s_d - z_d)^2 (Ba & Caruana 1312.6184),
here of the scores of one list; with `relevance` beside it, `supervised_mse` of a task file, the blend of labels and
teacher of Hinton et al. (1503.02531): alpha * relevance + (1 - alpha) * this.
"""

from __future__ import annotations

from torch import Tensor

from stillhouse.distill.rerankers.scores import fitting, standardise


def score_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """mean_d (s_d - z_d)^2, z the teacher's scores standardised within the list; a mean over lists.

    `student` and `teacher` float [lists, documents]. The student's own mean is taken off first: a constant added to
    all scores of a list ranks nothing. Raises `ModelError` for shapes that do not fit.

    Example:
        >>> import torch
        >>> student = torch.tensor([[1.0, 2.0]])
        >>> float(score_mse(student, torch.tensor([[10.0, 30.0]])))  # (-0.5 + 1)^2
        0.25
    """
    there = fitting(student, teacher, mask, "the teacher's")
    count = there.sum(dim=1).clamp(min=1)
    centred = (student - ((student * there).sum(dim=1) / count).unsqueeze(1)) * there
    squares = ((centred - standardise(teacher, there)) * there).square()
    return (squares.sum(dim=1) / count).mean()
