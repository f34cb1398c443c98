"""Born-again networks: a student of the same kind learns from the one before it (Furlanello et al. 1805.04770).

Generation 0 learns from the lesson. Generation g learns, from a fresh start, from the labels and what generation g - 1
answers (equation 3 of the paper). All generations together, their mean answer, are the paper's BANE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from stillhouse.distill.schemes.lesson import Lesson, direct
from stillhouse.models.port import ModelError


def born_again(make: Callable[[int], nn.Module], lesson: Lesson, *, generations: int = 3) -> list[nn.Module]:
    """`generations` students, each made by `make(generation)` and taught by the one before it, oldest first.

    Raises `ModelError` for fewer than 2 generations, which would be the lesson alone.

    >>> from stillhouse.distill.outputs import Outputs
    >>> x, hard = torch.eye(2).repeat(8, 1), torch.arange(2).repeat(8)
    >>> lesson = Lesson(lambda module, places: Outputs(module(x[places])), hard, epochs=20, rate=0.1)
    >>> first, second = born_again(lambda generation: nn.Linear(2, 2), lesson, generations=2)
    >>> bool((lesson.probabilities(second).argmax(1) == hard).all())
    True
    """
    if generations < 2:
        raise ModelError(f"{generations} generation is no scheme; born-again learning takes at least 2.")
    made: list[nn.Module] = []
    for generation in range(generations):
        soft = lesson.probabilities(made[-1]) if made else None
        student = make(generation)
        direct(student, lesson, soft, name=f"generation-{generation}")
        made.append(student)
    return made


def mean_answer(students: Sequence[nn.Module], lesson: Lesson) -> Tensor:
    """The generations' mean answer to every text of the lesson, float32 [n, L]: a teacher for one more student.

    >>> from stillhouse.distill.outputs import Outputs
    >>> x, hard = torch.eye(2), torch.arange(2)
    >>> lesson = Lesson(lambda module, places: Outputs(module(x[places])), hard)
    >>> mean_answer([nn.Linear(2, 2), nn.Linear(2, 2)], lesson).sum(dim=1).round(decimals=4).tolist()
    [1.0, 1.0]
    """
    return torch.stack([lesson.probabilities(student) for student in students]).mean(dim=0)
