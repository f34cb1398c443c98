"""Deep mutual learning: students that start apart teach each other while they learn (Zhang et al. 1706.00384).

Student k minimises what the lesson asks of it, and its mean distance from its peers (equation 7 of the paper):

    L_k = lesson_k + weight / (K - 1) sum over j != k of T^2 KL(p_j || p_k),

where no gradient flows into the peers. The paper has T = 1, and lets students take turns; here all step at once on the
same batch, which costs K forward passes instead of K^2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.fitting import Epoch
from stillhouse.distill.outputs import at_least_float32, require_same_shape
from stillhouse.distill.schemes.lesson import Lesson
from stillhouse.models.port import ModelError


def peer_losses(logits: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """How far each student is from its peers, [K]: the mean over the others of T^2 KL(p_j || p_k), nats a text.

    `logits`: [B, L] of each of K students. Raises `ModelError` for fewer than 2, or different shapes.

    >>> same = torch.tensor([[1.0, 2.0, 3.0]])
    >>> peer_losses([same, same]).tolist()
    [0.0, 0.0]
    """
    if len(logits) < 2:
        raise ModelError(f"{len(logits)} student has no peers; mutual learning takes at least 2.")
    for other in logits[1:]:
        require_same_shape("logits", logits[0], other, 2)
    logs = [functional.log_softmax(at_least_float32(one) / temperature, dim=-1) for one in logits]
    losses = []
    for k, own in enumerate(logs):
        apart = [
            functional.kl_div(own, peer.detach(), reduction="batchmean", log_target=True)
            for j, peer in enumerate(logs)
            if j != k
        ]
        losses.append(temperature**2 * torch.stack(apart).mean())
    return torch.stack(losses)


def mutual(
    students: Sequence[nn.Module], lesson: Lesson, *, weight: float = 1.0, temperature: float = 1.0
) -> list[Epoch]:
    """Train `students` together; they may differ in architecture. Take the one that `lesson.select` likes best.

    Where the lesson has a teacher, each learns from it too. The epoch kept is the best for their mean.

    >>> from stillhouse.distill.outputs import Outputs
    >>> x, hard = torch.eye(2).repeat(8, 1), torch.arange(2).repeat(8)
    >>> students = [nn.Linear(2, 2), nn.Linear(2, 2)]
    >>> lesson = Lesson(lambda module, places: Outputs(module(x[places])), hard, epochs=20, rate=0.1)
    >>> _ = mutual(students, lesson)
    >>> [lesson.probabilities(student).argmax(1).tolist() == hard.tolist() for student in students]
    [True, True]
    """
    together = nn.ModuleList(students)

    def loss_of(places: Tensor, done: float) -> Tensor:
        logits = [lesson.logits(student, places) for student in students]
        own = torch.stack([lesson.taught(one, places) for one in logits])
        return (own + weight * peer_losses(logits, temperature)).sum()

    def select() -> float:
        assert lesson.select is not None
        return sum(lesson.select(student) for student in students) / len(students)

    return lesson.fit(together, loss_of, name="mutual", select=select if lesson.select else None)
