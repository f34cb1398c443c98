"""Co-distillation: students learn from what their peers were a while ago (Anil et al. 1804.03235, algorithm 1).

As in mutual learning each student matches the others, but all of them together, by their mean answer; after a burn-in,
when there is something to learn from them; and by stale copies, so that students on different machines need exchange
weights only now and then. Each may see a part of the texts alone, which is where the paper's gain comes from:

    L_k = lesson_k + [burn-in is over] weight T^2 KL(mean over j != k of stale p_j || p_k).

Copies are taken at the start of each epoch, so that a resumed run has the same ones.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.fitting import Epoch
from stillhouse.distill.outputs import at_least_float32, require_same_shape
from stillhouse.distill.schemes.lesson import Lesson
from stillhouse.models.port import ModelError


def stale_peer_loss(logits: Tensor, peers: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """T^2 KL(mean of the peers' probabilities || the student's), nats a text, of logits [B, L] each; a scalar.

    No gradient reaches the peers. Raises `ModelError` without peers, or for different shapes.

    >>> float(stale_peer_loss(torch.zeros(1, 2), [torch.zeros(1, 2), torch.zeros(1, 2)]))
    0.0
    """
    if not peers:
        raise ModelError("The student has no peers; co-distillation takes at least 2 students.")
    for peer in peers:
        require_same_shape("logits", logits, peer, 2)
    shares = [functional.softmax(at_least_float32(peer.detach()) / temperature, dim=-1) for peer in peers]
    own = functional.log_softmax(at_least_float32(logits) / temperature, dim=-1)
    return temperature**2 * functional.kl_div(own, torch.stack(shares).mean(dim=0), reduction="batchmean")


def codistil(
    students: Sequence[nn.Module],
    lesson: Lesson,
    *,
    burn_in: int = 1,
    weight: float = 1.0,
    temperature: float = 1.0,
    apart: bool = False,
) -> list[Epoch]:
    """Train `students` side by side; take the one that `lesson.select` likes best.

    `burn_in`: epochs without peers. `apart`: each student's own loss is on a K-th of the texts, dealt by the lesson's
    seed, and it learns of the others through its peers alone.

    >>> from stillhouse.distill.outputs import Outputs
    >>> x, hard = torch.eye(2).repeat(8, 1), torch.arange(2).repeat(8)
    >>> students = [nn.Linear(2, 2), nn.Linear(2, 2)]
    >>> lesson = Lesson(lambda module, places: Outputs(module(x[places])), hard, epochs=20, rate=0.1)
    >>> _ = codistil(students, lesson)
    >>> [lesson.probabilities(student).argmax(1).tolist() == hard.tolist() for student in students]
    [True, True]
    """
    if len(students) < 2:
        raise ModelError(f"{len(students)} student has no peers; co-distillation takes at least 2.")
    together = nn.ModuleList(students)
    stale: list[nn.Module] = []
    dealt = torch.from_numpy(np.random.default_rng(lesson.seed).permutation(len(lesson.hard)) % len(students))

    def exchange(epoch: int) -> None:
        stale[:] = [copy.deepcopy(student).eval().requires_grad_(False) for student in students]
        if epoch < burn_in:
            stale.clear()

    def loss_of(places: Tensor, done: float) -> Tensor:
        losses = []
        with torch.no_grad():
            before = [lesson.logits(peer, places) for peer in stale]
        for k, student in enumerate(students):
            logits = lesson.logits(student, places)
            own = places if not apart else places[dealt[places] == k]
            if len(own):
                losses.append(lesson.taught(logits if not apart else logits[dealt[places] == k], own))
            if before:
                peers = [said for j, said in enumerate(before) if j != k]
                losses.append(weight * stale_peer_loss(logits, peers, temperature))
        return torch.stack(losses).sum()

    def select() -> float:
        assert lesson.select is not None
        return sum(lesson.select(student) for student in students) / len(students)

    return lesson.fit(
        together, loss_of, name="codistillation", on_epoch=exchange, select=select if lesson.select else None
    )
