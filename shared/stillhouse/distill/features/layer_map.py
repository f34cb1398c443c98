"""Which layer of the teacher teaches which of the student. Layers are numbered from 1; the map never goes back.

Uniform is what TinyBERT found best (Jiao et al. 1909.10351, section 3.1), the last layer what MiniLM takes
(2002.10957). Searched: the rising map with the largest sum of linear CKA (Kornblith et al. 1905.00414, equation 3)
between the states of the two, on a sample: a student's layer is taught by one that it is near to already.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.distill.outputs import shape_of
from stillhouse.models.port import ModelError


def uniform(student: int, teacher: int) -> tuple[int, ...]:
    """For each of the `student` layers one of `teacher` layers, evenly spaced, the last for the last.

    >>> uniform(3, 12)
    (4, 8, 12)
    """
    _check(student, teacher)
    return tuple(max(1, round(layer * teacher / student)) for layer in range(1, student + 1))


def last(student: int, teacher: int, count: int = 1) -> tuple[int, ...]:
    """The last `count` layers of the teacher for the last of the student; 0 for a layer that nothing teaches.

    >>> last(3, 12)
    (0, 0, 12)
    """
    _check(student, teacher)
    if not 1 <= count <= student:
        raise ModelError(f"The last {count} of {student} layers cannot be taught.")
    return (0,) * (student - count) + tuple(range(teacher - count + 1, teacher + 1))


def searched(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> tuple[int, ...]:
    """The rising map with the largest sum of `linear_cka`, by dynamic programming.

    Each is one tensor of states a layer, [N, width], the same N texts or tokens in the same order. Raises `ModelError`.

    >>> random = torch.Generator().manual_seed(0)
    >>> layers = [torch.randn(20, 4, generator=random) for _ in range(5)]
    >>> searched([layers[1], layers[3]], layers)
    (2, 4)
    """
    _check(len(student), len(teacher))
    likeness = [[float(linear_cka(one, other)) for other in teacher] for one in student]
    # best[j]: the largest sum for the layers so far with the newest taught by j; ways[j] is its map.
    best = likeness[0]
    ways: list[tuple[int, ...]] = [(j + 1,) for j in range(len(teacher))]
    for row in likeness[1:]:
        before = [max(range(j + 1), key=lambda i: best[i]) for j in range(len(teacher))]
        before = [-1, *before[:-1]]  # strictly rising
        ways = [(*ways[i], j + 1) if i >= 0 else () for j, i in enumerate(before)]
        best = [best[i] + row[j] if i >= 0 else -torch.inf for j, i in enumerate(before)]
    return ways[max(range(len(best)), key=lambda j: best[j])]


def linear_cka(first: Tensor, second: Tensor) -> Tensor:
    """||Y^T X||^2 / (||X^T X|| ||Y^T Y||) of centred X [N, a] and Y [N, b], between 0 and 1; 0 for a constant one.

    Turning or scaling either changes nothing. Raises `ModelError` where the rows are not as many.

    >>> states = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> round(linear_cka(states, -5 * states.flip(1)).item(), 4)
    1.0
    """
    if first.dim() != 2 or second.dim() != 2 or len(first) != len(second):
        raise ModelError(f"States {shape_of(first)} and {shape_of(second)} are not of the same texts.")
    x, y = (states.double() - states.double().mean(dim=0) for states in (first, second))
    size = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    likeness: Tensor = torch.linalg.matrix_norm(y.T @ x).pow(2) / size.clamp(min=1e-30)
    return likeness


def _check(student: int, teacher: int) -> None:
    if not 1 <= student <= teacher:
        raise ModelError(f"A student of {student} layers cannot be mapped on a teacher of {teacher}.")
