"""Listwise KL: which document is best, as a distribution over the list.

The top-one distributions of ListNet (Cao et al. 2007), the teacher's in the place of judgements, as in TCT-ColBERT
(Lin, Yang & Lin 2010.11386) with the temperature of Hinton et al. (1503.02531); RankDistil (Reddi et al. 2021)
studies when a student that matches them keeps the teacher's first places.
"""

from __future__ import annotations

from torch import Tensor

from stillhouse.distill.rerankers.scores import fitting, log_softmax, standardise


def listwise_kl(student: Tensor, teacher: Tensor, mask: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(z / T) || softmax(s / T)), z as in `standardise`; a mean over lists, in nats.

    `student` and `teacher` float [lists, documents]. Standardised scores differ by 3 or so: a temperature under 1 says
    more of the first places. Raises `ModelError` for shapes that do not fit.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 0.0, 1.0]])
        >>> float(listwise_kl(standardise(teacher) + 7.0, teacher)) < 1e-6  # a constant changes no ranking
        True
    """
    there = fitting(student, teacher, mask, "the teacher's")
    target = log_softmax(standardise(teacher, there) / temperature, there)
    said = log_softmax(student / temperature, there)
    shares = target.exp() * there
    return temperature**2 * (shares * (target - said)).sum(dim=1).mean()
