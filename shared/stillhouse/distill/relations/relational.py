"""Relational knowledge distillation, RKD (Park et al. 1904.05068): distances and angles between a batch's texts.

On clinc150 angles help; distances alone are not shown to: `make bench NAME=methods`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.distill.outputs import at_least_float32
from stillhouse.distill.relations.pairs import require_same_texts


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of the distances of all pairs, each divided by its batch's mean distance (equations 5 to 8).

    `student` [B, d] and `teacher` [B, e] are vectors of the same B >= 2 texts; the widths may differ. A mean over
    pairs. Raises `ModelError` where they are not of as many texts.

    >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    >>> distance_loss(7 * points, points).item()  # scale does not count
    0.0
    """
    require_same_texts(student, teacher, 2)
    return functional.huber_loss(_distances(student), _distances(teacher))


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of the cosines of the angles in all triples of different texts (equations 9 to 11).

    Arguments as `distance_loss`, B >= 3; memory grows with B^3.

    >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> angle_loss(points @ torch.tensor([[0.0, 2.0], [-2.0, 0.0]]), points).item()  # turned and scaled
    0.0
    """
    require_same_texts(student, teacher, 3)
    return functional.huber_loss(_cosines(student), _cosines(teacher))


def _distances(vectors: Tensor) -> Tensor:
    """Distances of all pairs over their mean, [B (B - 1) / 2]; the gradient at equal vectors is 0."""
    first, second = torch.triu_indices(len(vectors), len(vectors), 1)
    vectors = at_least_float32(vectors)
    distances = torch.linalg.vector_norm(vectors[first] - vectors[second], dim=-1)
    relative: Tensor = distances / distances.mean().clamp(min=1e-12)
    return relative


def _cosines(vectors: Tensor) -> Tensor:
    """Cosine of the angle at j between i and k, [B (B - 1) (B - 2)] for different i, j, k."""
    vectors = at_least_float32(vectors)
    towards = functional.normalize(vectors[None, :, :] - vectors[:, None, :], dim=-1)  # [j, i]: from j to i
    cosines = towards @ towards.transpose(-1, -2)
    places = torch.arange(len(vectors))
    j, i, k = places[:, None, None], places[None, :, None], places[None, None, :]
    return cosines[(i != j) & (k != j) & (i != k)]
