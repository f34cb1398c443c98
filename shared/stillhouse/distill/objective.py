"""The distillation objective: hard labels and softened probabilities (Hinton, Vinyals & Dean 1503.02531)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def soften(probabilities: Tensor, temperature: float) -> Tensor:
    """Probabilities [B, L] at another temperature: p^(1/T), normalised. Zeros stay zeros.

    Equals softmax(z / T) where p = softmax(z), so the teacher's logits are not needed.
    """
    powered = probabilities.float().clamp(min=0).pow(1.0 / temperature)
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
    [B], `alpha` one for all or one for each row [B] (rare classes may need more of their hard labels), optional weights
    of the rows `weight` [B] (the mean is then weighted). T^2 keeps the soft gradients as large as
    the hard ones whatever T is.
    """
    scores = logits.float()
    hard_loss = functional.cross_entropy(scores, hard, reduction="none")
    teacher = soften(soft, temperature)
    student = functional.log_softmax(scores / temperature, dim=-1)
    soft_loss = functional.kl_div(student, teacher, reduction="none").sum(dim=-1)
    losses = alpha * hard_loss + (1.0 - alpha) * temperature**2 * soft_loss
    if weight is None:
        return losses.mean()
    return (losses * weight).sum() / weight.sum()
