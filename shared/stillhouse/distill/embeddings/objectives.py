"""What a smaller encoder's sentence vectors should have of a larger one's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from stillhouse.distill.outputs import at_least_float32, require_same_shape


def vector_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos(student, teacher), a mean over the batch [B, width].

    Reimers & Gurevych (2004.09813, equation 1) take the squared distance; of vectors of length 1 that is twice this.
    Raises `ModelError` where the shapes differ.

    >>> import torch
    >>> vector_loss(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [3.0, 0.0]])).item()
    0.5
    """
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    require_same_shape("sentence vectors", student, teacher, dims=2)
    return 1.0 - functional.cosine_similarity(student, teacher, dim=-1).mean()


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the cosines of all pairs of a batch: which texts are alike, in whatever space.

    `student` [B, width] and `teacher` [B, other width], B >= 2: the widths may differ, the batch may not. Similarities
    are what sentence vectors are compared by; Park et al. (1904.05068) match distances in the same way. Raises
    `ModelError`.

    >>> import torch
    >>> similarity_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0], [1.0]])).item()
    1.0
    """
    of_student, of_teacher = _cosines(student), _cosines(teacher)
    require_same_shape("pairwise similarities", of_student, of_teacher, dims=2)
    pairs = len(of_student) * (len(of_student) - 1)
    return (of_student - of_teacher).square().sum() / max(1, pairs)


def _cosines(vectors: Tensor) -> Tensor:
    """Cosines of all pairs, [B, B]."""
    unit = functional.normalize(at_least_float32(vectors), dim=-1)
    return unit @ unit.T
