"""The teacher's labels alone, smoothed where wished (Szegedy et al. 1512.00567, section 7)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from stillhouse.distill.outputs import at_least_float32, mean_of_rows, shape_of
from stillhouse.models.port import ModelError


def hard_label_loss(logits: Tensor, hard: Tensor, smoothing: float = 0.0, weight: Tensor | None = None) -> Tensor:
    """(1 - e) CE(student, hard) + e CE(student, uniform), a mean over the batch, in float32 nats.

    `logits` [B, L], labels `hard` int64 [B], `smoothing` e in [0, 1), optional weights of the rows `weight` [B].
    Raises `ModelError` where the shapes do not fit.

    >>> import torch
    >>> round(hard_label_loss(torch.zeros(1, 4), torch.tensor([2]), smoothing=0.1).item(), 4)  # log 4
    1.3863
    """
    return mean_of_rows(hard_label_losses(logits, hard, smoothing), weight)


def hard_label_losses(logits: Tensor, hard: Tensor, smoothing: float = 0.0) -> Tensor:
    """The loss of each row [B]; arguments and errors as `hard_label_loss`.

    >>> import torch
    >>> hard_label_losses(torch.zeros(2, 2), torch.tensor([1, 0]))
    tensor([0.6931, 0.6931])
    """
    scores = at_least_float32(logits)
    if scores.dim() != 2 or hard.shape != scores.shape[:1]:
        raise ModelError(f"Logits {shape_of(logits)} need one label for each row; the labels are {shape_of(hard)}.")
    return functional.cross_entropy(scores, hard, reduction="none", label_smoothing=smoothing)
