"""Labels that are independent of each other: a text may have several, or one question has yes and no.

Each label is a distillation of its own with two outcomes (one-versus-all, as in Yang et al. 2308.06453, equation 4), a
sigmoid in the place of the softmax.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.distill.outputs import at_least_float32, mean_of_rows, require_same_shape, shape_of
from stillhouse.models.port import ModelError


def multi_label_loss(
    logits: Tensor,
    soft: Tensor,
    hard: Tensor,
    temperature: float = 1.0,
    alpha: float | Tensor = 0.0,
    weight: Tensor | None = None,
) -> Tensor:
    """alpha BCE(student, hard) + (1 - alpha) T^2 KL(teacher_T || student_T), a mean over batch and labels, in nats.

    `logits` [B, L], the teacher's probabilities `soft` [B, L] each in [0, 1] (rows need not sum to 1), `hard` [B, L] of
    0 and 1, `alpha` one for all or one for each label [L], optional weights of the rows `weight` [B]. Raises
    `ModelError` where the shapes differ, or for probabilities outside of [0, 1].

    >>> soft = torch.tensor([[0.9, 0.6], [0.2, 0.5]])
    >>> abs(multi_label_loss(torch.logit(soft), soft, soft.round(), temperature=2.0).item()) < 1e-6
    True
    """
    scores, wanted = at_least_float32(logits), at_least_float32(soft)
    require_same_shape("probabilities", scores, wanted, dims=2)
    require_same_shape("labels", scores, hard, dims=2)
    if isinstance(alpha, Tensor) and alpha.dim() and alpha.shape != scores.shape[1:]:
        raise ModelError(
            f"The alphas are {shape_of(alpha)} for labels {shape_of(scores)}; give one for each label, "
            f"[{scores.shape[1]}]."
        )
    if bool(((wanted < 0) | (wanted > 1)).any()):
        raise ModelError("The teacher's probabilities of independent labels must each be between 0 and 1.")
    hard_loss = functional.binary_cross_entropy_with_logits(scores, hard.to(scores.dtype), reduction="none")
    yes, no = wanted.pow(1.0 / temperature), (1.0 - wanted).pow(1.0 / temperature)  # sigmoid(z / T), zeros stay zeros
    teacher = torch.stack([yes, no], dim=-1) / (yes + no).unsqueeze(-1)
    cooled = scores / temperature
    student = torch.stack([functional.logsigmoid(cooled), functional.logsigmoid(-cooled)], dim=-1)
    soft_loss = functional.kl_div(student, teacher, reduction="none").sum(dim=-1)
    return mean_of_rows((alpha * hard_loss + (1.0 - alpha) * temperature**2 * soft_loss).mean(dim=-1), weight)


def binary_loss(
    logits: Tensor,
    soft: Tensor,
    hard: Tensor,
    temperature: float = 1.0,
    alpha: float = 0.0,
    weight: Tensor | None = None,
) -> Tensor:
    """`multi_label_loss` of one question: `logits`, the teacher's probability of yes `soft`, and `hard`, all [B].

    >>> round(binary_loss(torch.zeros(2), torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), alpha=1.0).item(), 4)  # log 2
    0.6931
    """
    require_same_shape("probabilities", logits, soft, dims=1)
    require_same_shape("labels", logits, hard, dims=1)
    return multi_label_loss(logits[:, None], soft[:, None], hard[:, None], temperature, alpha, weight)
