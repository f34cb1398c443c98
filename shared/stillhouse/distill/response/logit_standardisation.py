"""Logit standardisation (Sun et al. 2403.01427): the student learns the order and spread of logits, not their size.

Each row of logits becomes a Z-score before the softmax, z' = (z - mean z) / (std z * T) (equation 9 and algorithm 1),
so that a small student need not match the teacher's range: only the relations between the logits are taught.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from stillhouse.distill.outputs import at_least_float32, mean_of_rows, require_same_shape


def standardised(logits: Tensor, temperature: float) -> Tensor:
    """Z-scores of each row divided by T, of `logits` [B, L] with L >= 2; the deviation is that of a sample.

    >>> import torch
    >>> standardised(torch.tensor([[1.0, 2.0, 3.0]]), 2.0)
    tensor([[-0.5000,  0.0000,  0.5000]])
    """
    centred = logits - logits.mean(dim=-1, keepdim=True)
    return centred / (1e-7 + centred.pow(2).sum(dim=-1, keepdim=True).div(logits.shape[-1] - 1).sqrt()) / temperature


def standardised_logit_loss(
    logits: Tensor, teacher: Tensor, temperature: float = 2.0, weight: Tensor | None = None
) -> Tensor:
    """T^2 KL(softmax(Z(teacher; T)) || softmax(Z(student; T))), a mean over the batch, in float32 nats.

    `logits` and `teacher` [B, L], all finite: log-probabilities will do, but not of a probability of 0. Optional
    weights of the rows `weight` [B]. Raises `ModelError` where the shapes differ.

    >>> import torch
    >>> student, teacher = torch.tensor([[0.1, 0.2, 0.4]]), torch.tensor([[10.0, 20.0, 40.0]])
    >>> abs(standardised_logit_loss(student, teacher).item()) < 1e-6  # the same relations
    True
    """
    require_same_shape("logits", logits, teacher, dims=2)
    said = functional.log_softmax(standardised(at_least_float32(logits), temperature), dim=-1)
    wanted = functional.softmax(standardised(at_least_float32(teacher), temperature), dim=-1)
    losses = functional.kl_div(said, wanted, reduction="none").sum(dim=-1)
    return mean_of_rows(temperature**2 * losses, weight)
