"""MiniLM (Wang et al. 2002.10957) and MiniLMv2 (2012.15828): how tokens attend to each other, in the last layer.

MiniLM teaches the attention distributions, L_AT = 1/(heads n) sum KL(teacher's row || student's row) (equation 5), and
the relations of values, softmax(V V^T / sqrt d) (equations 6 and 7), which hold at any width. MiniLMv2 does the same to
queries and keys, and cuts each into `heads` relation heads, so that the numbers of attention heads may differ, too.

On clinc150 neither is shown to help: `make bench NAME=methods`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.distill.outputs import at_least_float32, require_same_shape, shape_of
from stillhouse.models.port import ModelError

TINY = 1e-30  # an attention of 0 has a logarithm


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(teacher's attention || student's), a mean over heads, real tokens and texts, in nats.

    Attention maps [B, heads, n, n] whose rows sum to 1; `mask` [B, n] is 0 for padding. Raises `ModelError` where the
    shapes differ; for other numbers of heads there is `relation_loss`.

    >>> even = torch.full((1, 2, 3, 3), 1 / 3)
    >>> attention_loss(even, even).item()
    0.0
    """
    require_same_shape("attention maps", student, teacher, dims=4)
    logs = at_least_float32(student).clamp(min=TINY).log()
    return _divergence(logs, at_least_float32(teacher), mask)


def relation_loss(student: Tensor, teacher: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """KL of the teacher's relations among tokens from the student's, a mean over heads, real tokens and texts, in nats.

    Both are queries, keys or values [B, n, width] of any widths that `heads` divides. Raises `ModelError` where it does
    not, or where texts or tokens differ.

    >>> values = torch.eye(4)[None]
    >>> relation_loss(values, values, heads=2).item()
    0.0
    """
    if student.dim() != 3 or student.shape[:2] != teacher.shape[:2]:
        raise ModelError(
            f"The student's vectors are {shape_of(student)}, the teacher's {shape_of(teacher)}; texts and tokens "
            "must be the same."
        )
    return _divergence(relations(student, heads, mask), relations(teacher, heads, mask).exp(), mask)


def relations(vectors: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """log softmax(A A^T / sqrt d) [B, heads, n, n] of vectors A [B, n, width] cut into heads of d = width / heads.

    >>> relations(torch.zeros(1, 2, 4), heads=2).exp()[0, 0]
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    texts, tokens, width = vectors.shape
    if width % heads:
        raise ModelError(f"Vectors {shape_of(vectors)} cannot be cut into {heads} relation heads; name a divisor.")
    split = at_least_float32(vectors).view(texts, tokens, heads, width // heads).transpose(1, 2)
    scores = split @ split.transpose(-1, -2) / math.sqrt(width // heads)
    if mask is not None:
        if mask.shape != vectors.shape[:2]:
            raise ModelError(
                f"The mask is {shape_of(mask)} and the tokens are [{texts}, {tokens}]; they must be the same."
            )
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -1e9)
    return torch.log_softmax(scores, dim=-1)


def _divergence(logs: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Mean KL of rows, `logs` [B, heads, n, n] the student's log-probabilities, `teacher` probabilities."""
    rows = torch.nn.functional.kl_div(logs, teacher, reduction="none").sum(dim=-1).mean(dim=1)
    if mask is None:
        return rows.mean()
    if mask.shape != rows.shape:
        raise ModelError(f"The mask is {shape_of(mask)} and the tokens are {shape_of(rows)}; they must be the same.")
    real = mask.to(rows.dtype)
    return (rows * real).sum() / real.sum().clamp(min=1.0)
