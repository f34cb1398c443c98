"""Scores instead of labels: the teacher's score as a target, or as a bound of what may be asked of the student.

As a target: the squared distance to what the teacher gives (Ba & Caruana 1312.6184), blended with that to the truth
(Saputra et al. 1908.00858). As a bound:

Chen et al., "Learning efficient object detection models with knowledge distillation" (NIPS 2017), equation 6: a
regression teacher can be as wrong as any; where its student is nearer to the truth already, the student is left alone.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from stillhouse.distill.outputs import at_least_float32, mean_of_rows, require_same_shape


def score_loss(
    scores: Tensor, teacher: Tensor, truth: Tensor | None = None, alpha: float = 0.0, weight: Tensor | None = None
) -> Tensor:
    """alpha (student - truth)^2 + (1 - alpha) (student - teacher)^2, a mean over the batch.

    `scores`, `teacher` and `truth` [B], in the units of the score; optional weights of the rows `weight` [B]. Without
    `truth` alpha counts for nothing. Raises `ModelError` where the shapes differ.

    >>> import torch
    >>> score_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])).item()
    2.0
    """
    require_same_shape("scores", scores, teacher, dims=1)
    said = at_least_float32(scores)
    losses = (said - teacher).pow(2)
    if truth is not None:
        require_same_shape("truths", scores, truth, dims=1)
        losses = alpha * (said - truth).pow(2) + (1.0 - alpha) * losses
    return mean_of_rows(losses, weight)


def bounded_score_loss(
    scores: Tensor,
    teacher: Tensor,
    truth: Tensor,
    bound: float = 0.5,
    margin: float = 0.0,
    weight: Tensor | None = None,
) -> Tensor:
    """smooth L1(student, truth) + bound (student - truth)^2 where (student - truth)^2 + margin > (teacher - truth)^2.

    A mean over the batch; shapes, units and errors as in `score_loss`.

    >>> import torch
    >>> truth, teacher = torch.tensor([0.0]), torch.tensor([1.0])
    >>> bounded_score_loss(torch.tensor([0.5]), teacher, truth).item()  # nearer than the teacher: smooth L1 alone
    0.125
    """
    require_same_shape("scores", scores, teacher, dims=1)
    require_same_shape("truths", scores, truth, dims=1)
    said = at_least_float32(scores)
    squared = (said - truth).pow(2)
    worse = squared + margin > (at_least_float32(teacher) - truth).pow(2)
    losses = functional.smooth_l1_loss(said, truth.to(said.dtype), reduction="none")
    return mean_of_rows(losses + bound * squared * worse, weight)
