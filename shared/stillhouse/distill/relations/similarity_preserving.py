"""Similarity-preserving distillation (Tung & Mori 1907.09682): what is alike for the teacher is for the student.

With G = normalised rows of Q Q^T of a batch's vectors Q (equations 1 to 3), the loss is ||G_T - G_S||_F^2 / B^2
(equation 4).

On clinc150 the paper's weight of 3,000 does harm; of those tried 30 agreed best: `make bench NAME=methods`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from stillhouse.distill.outputs import at_least_float32
from stillhouse.distill.relations.pairs import require_same_texts


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """||G_T - G_S||_F^2 / B^2 of vectors `student` [B, d] and `teacher` [B, e] of the same texts.

    The widths may differ. Raises `ModelError` where they are not of as many texts.

    >>> import torch
    >>> similarity_loss(torch.eye(2), torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]])).item()
    0.0
    """
    require_same_texts(student, teacher, 2)
    return (_similarities(student) - _similarities(teacher)).pow(2).mean()


def _similarities(vectors: Tensor) -> Tensor:
    vectors = at_least_float32(vectors)
    return functional.normalize(vectors @ vectors.T, dim=-1)
