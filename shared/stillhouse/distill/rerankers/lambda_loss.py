"""LambdaLoss: pairs count by what swapping them would change of nDCG (Wang et al., CIKM 2018, with LambdaRank's
weights, Burges 2010): an upper bound of the ranking metric that can be descended.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.distill.rerankers.scores import fitting, standardise


def lambda_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None, sigma: float = 1.0) -> Tensor:
    """sum over pairs with g_i > g_j of |g_i - g_j| |1/D_i - 1/D_j| log2(1 + exp(-sigma (s_i - s_j))) / maxDCG.

    A mean over lists. g are gains from the teacher, 2^u - 1 with u its standardised scores moved to [0, 3] within the
    list (as grades are); D_i = log2(1 + rank of i by the student). Ranks and weights are constants to the gradient.
    `student`, `teacher` float [lists, documents]. Raises `ModelError` for shapes that do not fit.

    Example:
        >>> teacher = torch.tensor([[2.0, 1.0, 0.0]])
        >>> right, wrong = torch.tensor([[9.0, 0.0, -9.0]]), torch.tensor([[-9.0, 0.0, 9.0]])
        >>> float(lambda_loss(right, teacher)) < 0.01 < 1 < float(lambda_loss(wrong, teacher))
        True
    """
    there = fitting(student, teacher, mask, "the teacher's")
    gains = grades_of(teacher, there).to(student.dtype)
    with torch.no_grad():
        placed = student.masked_fill(~there, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        discounts = 1.0 / torch.log2(placed.to(student.dtype) + 2.0)
        best = gains.sort(dim=1, descending=True).values
        places = torch.arange(student.shape[1], device=student.device, dtype=student.dtype)
        ideal = (best / torch.log2(places + 2.0)).sum(dim=1)
        apart = gains.unsqueeze(2) - gains.unsqueeze(1)
        pairs = (there.unsqueeze(2) & there.unsqueeze(1)) & (apart > 0)
        weights = apart * (discounts.unsqueeze(2) - discounts.unsqueeze(1)).abs() * pairs
        weights = weights / ideal.clamp(min=1e-12).reshape(-1, 1, 1)
    margins = sigma * (student.unsqueeze(2) - student.unsqueeze(1))
    losses = torch.nn.functional.softplus(-margins) / torch.log(torch.tensor(2.0, dtype=student.dtype))
    return (weights * losses).sum(dim=(1, 2)).mean()


def grades_of(teacher: Tensor, there: Tensor) -> Tensor:
    """Gains 2^u - 1 of the teacher's scores, u from 0 for a list's lowest to 3 for its highest; 0 for padding.

    >>> grades_of(torch.tensor([[-5.0, 1.0, 4.0, 0.0]]), torch.tensor([[True, True, True, False]])).round().tolist()
    [[0.0, 3.0, 7.0, 0.0]]
    """
    scores = standardise(teacher, there)
    low = scores.masked_fill(~there, torch.inf).amin(dim=1, keepdim=True)
    high = scores.masked_fill(~there, -torch.inf).amax(dim=1, keepdim=True)
    graded = 3.0 * (scores - low) / (high - low).clamp(min=1e-6)
    return (torch.pow(2.0, graded) - 1.0) * there
