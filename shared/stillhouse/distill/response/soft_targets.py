"""Hard labels and softened probabilities (Hinton, Vinyals & Dean 1503.02531): the default objective."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from stillhouse.distill.outputs import at_least_float32, mean_of_rows, require_rows, require_same_shape


def soften(probabilities: Tensor, temperature: float) -> Tensor:
    """Probabilities [B, L] at another temperature: p^(1/T), normalised. Zeros stay zeros.

    Equals softmax(z / T) where p = softmax(z), so the teacher's logits are not needed.

    >>> import torch
    >>> soften(torch.tensor([[0.8, 0.2, 0.0]]), 2.0)
    tensor([[0.6667, 0.3333, 0.0000]])
    """
    powered = at_least_float32(probabilities).clamp(min=0).pow(1.0 / temperature)
    return powered / powered.sum(dim=-1, keepdim=True)


def soft_target_loss(
    logits: Tensor,
    soft: Tensor,
    hard: Tensor,
    temperature: float,
    alpha: float | Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """alpha CE(student, hard) + (1 - alpha) T^2 KL(teacher_T || student_T), a mean over the batch, in float32 nats.

    `logits` [B, L] of any float type, the teacher's probabilities `soft` [B, L] (rows sum to 1), labels `hard` int64
    [B], `alpha` one for all or one for each row [B]: a row's is its class's where classes are blended differently (rare
    ones may need more of their hard labels; Zhang et al. 2104.10510 weigh the soft part by class for long tails),
    optional weights of the rows `weight` [B] (the mean is then weighted). T^2 keeps the soft gradients as large as
    the hard ones whatever T is. Raises `ModelError` where the shapes differ.

    >>> import torch
    >>> teacher = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    >>> abs(soft_target_loss(teacher.log(), teacher, torch.tensor([0, 1]), 2.0, alpha=0.0).item()) < 1e-6
    True
    >>> of_class = torch.tensor([0.0, 1.0])  # class 1 learns from its labels alone
    >>> hard = torch.tensor([0, 1])
    >>> round(soft_target_loss(teacher.log(), teacher, hard, 2.0, alpha=of_class[hard]).item(), 4)  # -log 0.8 / 2
    0.1116
    """
    scores = at_least_float32(logits)
    require_same_shape("probabilities", scores, soft, dims=2)
    require_rows(scores, labels=hard, alphas=alpha)
    hard_loss = functional.cross_entropy(scores, hard, reduction="none")
    soft_loss = softened_divergence(scores, soft, temperature)
    return mean_of_rows(alpha * hard_loss + (1.0 - alpha) * temperature**2 * soft_loss, weight)


def softened_divergence(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """KL(teacher_T || student_T) of each row, [B], of `logits` [B, L] and probabilities `soft` [B, L].

    >>> import torch
    >>> softened_divergence(torch.zeros(2, 2), torch.tensor([[0.5, 0.5], [1.0, 0.0]]), 1.0)
    tensor([0.0000, 0.6931])
    """
    student = functional.log_softmax(logits / temperature, dim=-1)
    return functional.kl_div(student, soften(soft.to(logits.dtype), temperature), reduction="none").sum(dim=-1)
