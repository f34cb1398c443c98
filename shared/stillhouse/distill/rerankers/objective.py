"""What a reranker learns from: alpha * supervised relevance + (1 - alpha) * an objective on the teacher's scores."""

from __future__ import annotations

from torch import Tensor

from stillhouse.distill.rerankers.lambda_loss import lambda_loss
from stillhouse.distill.rerankers.listwise_kl import listwise_kl
from stillhouse.distill.rerankers.margin_mse import margin_mse
from stillhouse.distill.rerankers.relevance import relevance_loss
from stillhouse.distill.rerankers.score_mse import score_mse
from stillhouse.models.port import ModelError
from stillhouse.tasks.rerankers import RerankObjective


def rerank_loss(
    student: Tensor,
    teacher: Tensor | None,
    relevance: Tensor | None,
    mask: Tensor | None = None,
    *,
    objective: RerankObjective,
    alpha: float,
    temperature: float = 1.0,
) -> Tensor:
    """The blend, over `student` [lists, documents]. A side that is not there (None) leaves the other one all weight.

    `margin_mse` pairs by relevance where there is some. Raises `ModelError` where neither side is there.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 3.0]])
        >>> both = rerank_loss(student, teacher, torch.tensor([[0.0, 1.0]]), objective="supervised_mse", alpha=0.5)
        >>> round(float(both), 3)  # (0.313 + 0.25) / 2
        0.282
    """
    if teacher is None and relevance is None:
        raise ModelError("A list teaches by a teacher's scores or by relevance; this one has neither.")
    if teacher is None:
        assert relevance is not None
        return relevance_loss(student, relevance, mask)
    match objective:
        case "supervised_mse":
            distilled = score_mse(student, teacher, mask)
        case "margin_mse":
            distilled = margin_mse(student, teacher, mask, relevance)
        case "listwise_kl":
            distilled = listwise_kl(student, teacher, mask, temperature)
        case "lambda_loss":
            distilled = lambda_loss(student, teacher, mask)
    if relevance is None or alpha == 0.0:
        return distilled
    return alpha * relevance_loss(student, relevance, mask) + (1.0 - alpha) * distilled
