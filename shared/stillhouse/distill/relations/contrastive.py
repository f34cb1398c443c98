"""Contrastive representation distillation, CRD (Tian, Krishnan & Isola 1910.10699): which teacher's vector is mine?

A critic tells the teacher's vector of the same text from those of N others, h(T, S) = e^s / (e^s + N / M), s = cosine /
temperature of the projected vectors and M the number of texts (equation 19); the loss is -log h of the true pair minus
the sum of log(1 - h) of the others (equation 18). The negatives are the batch's other texts and a queue of earlier
batches, of other labels where labels are known, as in the authors' supervised sampling.

On clinc150 not shown to help, and harmful at the paper's weight of 0.8: `make bench NAME=methods`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.features.projection import Projection
from stillhouse.distill.outputs import at_least_float32, require_rows, shape_of
from stillhouse.distill.relations.pairs import require_same_texts
from stillhouse.models.port import ModelError


def contrastive_loss(
    student: Tensor, teacher: Tensor, negative: Tensor, texts: int, temperature: float = 0.07
) -> Tensor:
    """-log h(own) - sum over negatives of log(1 - h), a mean over the batch, in nats.

    `student` [B, d], the vectors that are to be told apart `teacher` [B + K, d], of which the first B are those of the
    student's texts, `negative` bool [B, B + K] which of them a row is told from; `texts` is M.

    >>> ours, theirs = torch.eye(2), torch.eye(2)
    >>> near = contrastive_loss(ours, theirs, ~torch.eye(2).bool(), texts=100)
    >>> far = contrastive_loss(ours, theirs.flip(0), ~torch.eye(2).bool(), texts=100)
    >>> bool(near < far)
    True
    """
    require_same_texts(student, teacher[: len(student)], 2)
    if student.shape[1] != teacher.shape[1]:
        raise ModelError(
            f"The student's vectors are {shape_of(student)}, the teacher's {shape_of(teacher)}; project both to one "
            "width."
        )
    if negative.shape != (len(student), len(teacher)):
        raise ModelError(
            f"The negatives are {shape_of(negative)} for vectors {shape_of(student)} and {shape_of(teacher)}; give "
            f"[{len(student)}, {len(teacher)}]."
        )
    scores = functional.normalize(at_least_float32(student), dim=-1)
    scores = scores @ functional.normalize(at_least_float32(teacher), dim=-1).T / temperature
    counts = negative.sum(dim=-1, keepdim=True).clamp(min=1)
    odds = scores - (counts.to(scores.dtype) / texts).log()  # h = sigmoid(odds)
    own = functional.logsigmoid(odds[:, : len(student)].diagonal())
    others = functional.logsigmoid(-odds).masked_fill(~negative, 0.0).sum(dim=-1)
    return -(own + others).mean()


class Contrast(nn.Module):
    """`contrastive_loss` with what learns (two projections) and what is remembered (a queue of teacher's vectors).

    Keep it in checkpoints with the student. `texts`: how many there are to learn from.

    >>> crd = Contrast(4, 6, dim=8, queue=16, texts=100)
    >>> crd(torch.randn(5, 4), torch.randn(5, 6)).shape
    torch.Size([])
    """

    queue: Tensor
    queued: Tensor
    filled: Tensor

    def __init__(
        self, width: int, target: int, *, texts: int, dim: int = 128, queue: int = 512, temperature: float = 0.07
    ) -> None:
        """`width` of the student's vectors, `target` of the teacher's, `dim` of both projections."""
        super().__init__()
        self.student, self.teacher = Projection(width, dim), Projection(target, dim)
        self.texts, self.temperature = texts, temperature
        self.register_buffer("queue", torch.zeros(queue, target))
        self.register_buffer("queued", torch.full((queue,), -1))  # labels
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of a batch, `student` [B, width], `teacher` [B, target], int64 `labels` [B]; the batch is queued."""
        require_same_texts(student, teacher, 2)
        require_rows(student, labels=labels)
        size = len(student)
        known = min(int(self.filled), len(self.queue))
        candidates = torch.cat([teacher.detach(), self.queue[:known].to(teacher.dtype)])
        device = teacher.device
        negative = torch.ones(size, size + known, dtype=torch.bool, device=device)
        negative[:, :size] = ~torch.eye(size, dtype=torch.bool, device=device)
        if labels is not None:
            negative &= labels[:, None] != torch.cat([labels, self.queued[:known]])[None, :]
        loss = contrastive_loss(self.student(student), self.teacher(candidates), negative, self.texts, self.temperature)
        if self.training and len(self.queue):
            places = (int(self.filled) + torch.arange(size, device=device)) % len(self.queue)
            self.queue[places] = teacher.detach().to(self.queue.dtype)
            self.queued[places] = labels if labels is not None else torch.full((size,), -1, device=device)
            self.filled += size
        return loss
