"""Decoupled knowledge distillation, DKD (Zhao et al. 2203.08679): the label's probability and the rest apart.

With p the teacher's probability of the label, KL(teacher || student) = TCKD + (1 - p) NCKD (equation 5): what the
student is taught about the other labels weighs least where the teacher is surest. DKD weighs the parts by constants,
alpha TCKD + beta NCKD (equation 7).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.distill.outputs import at_least_float32, mean_of_rows, require_rows, require_same_shape
from stillhouse.distill.response.soft_targets import soften


def decoupled_loss(
    logits: Tensor,
    soft: Tensor,
    hard: Tensor,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float | Tensor = 8.0,
    weight: Tensor | None = None,
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD), a mean over the batch, in float32 nats.

    TCKD = KL of (label, not label); NCKD = KL among the other labels, renormalised; both at temperature T. `logits`
    [B, L], the teacher's probabilities `soft` [B, L] (of temperature 1), labels `hard` int64 [B], `beta` one for all
    or for each row [B]; with alpha 1 and beta 1 - p (p at T) it is soft targets. Optional weights of the rows `weight`
    [B]. Raises `ModelError` where the shapes differ.

    >>> soft = torch.tensor([[0.5, 0.3, 0.2]])
    >>> abs(decoupled_loss(soft.log(), soft, torch.tensor([0])).item()) < 1e-4
    True
    """
    require_same_shape("probabilities", logits, soft, dims=2)
    require_rows(logits, labels=hard, betas=beta)
    said = functional.log_softmax(at_least_float32(logits) / temperature, dim=-1)
    wanted = soften(soft, temperature)
    label = functional.one_hot(hard, said.shape[-1]).bool()

    p = wanted[label]
    teacher = torch.stack([p, wanted.masked_fill(label, 0.0).sum(dim=-1)], dim=-1)
    # The log of what is left comes from the other labels: 1 - exp would lose it where the student is sure.
    rest = said.masked_fill(label, -torch.inf).logsumexp(dim=-1)
    tckd = functional.kl_div(torch.stack([said[label], rest], dim=-1), teacher, reduction="none").sum(dim=-1)

    others = wanted.masked_fill(label, 0.0) / teacher[:, 1:].clamp(min=torch.finfo(wanted.dtype).tiny)
    among = (said - rest.unsqueeze(-1)).masked_fill(label, 0.0)
    nckd = functional.kl_div(among, others, reduction="none").sum(dim=-1)
    return mean_of_rows(temperature**2 * (alpha * tckd + beta * nckd), weight)
