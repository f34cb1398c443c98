"""A teacher's next-token distribution, kept small: its k likeliest tokens, and the mass of all others together.

Distillation from what is kept takes the others as one token. That KL is a lower bound of the whole one (merging tokens
never makes distributions easier to tell apart), equal to it where the student shares the rest out as the teacher does;
without the tail a student would be taught that the rest is impossible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALLEST_TAIL = 1e-6  # float16 log-probabilities of the head sum to 1 only so closely


@dataclass(frozen=True, slots=True)
class TopK:
    """What is kept of n tokens: `ids` uint16 or uint32 [n, k], `log_probs` float16 [n, k], likeliest first."""

    ids: NDArray[np.unsignedinteger]
    log_probs: NDArray[np.float16]

    @property
    def bytes_per_token(self) -> float:
        """Of the arrays, uncompressed."""
        return (self.ids.nbytes + self.log_probs.nbytes) / max(1, len(self.ids))


def keep(p: Tensor, k: int) -> TopK:
    """The `k` likeliest tokens of each of the log-probabilities `p` [n, V]. ValueError for a k outside of 1..V."""
    if not 1 <= k <= p.shape[-1]:
        raise ValueError(f"k must be between 1 and {p.shape[-1]}, the size of the vocabulary, not {k}")
    found = p.float().topk(k, dim=-1)
    dtype = np.uint16 if p.shape[-1] <= 1 << 16 else np.uint32
    return TopK(found.indices.numpy().astype(dtype), found.values.numpy().astype(np.float16))


def top_k_kl(kept: TopK, q: Tensor) -> Tensor:
    """KL(p || q) [n] over the kept tokens and the tail, of what `keep` kept and log-probabilities `q` [n, V]."""
    ids = torch.from_numpy(kept.ids.astype(np.int64)).to(q.device)
    head = torch.from_numpy(kept.log_probs.astype(np.float32)).to(q.device)
    said = q.gather(-1, ids)
    found = head.exp().mul(head - said).sum(dim=-1)
    if ids.shape[-1] == q.shape[-1]:
        return found
    tail = (1.0 - head.exp().sum(dim=-1)).clamp(min=0.0)
    said_tail = (1.0 - said.exp().sum(dim=-1)).clamp(min=SMALLEST_TAIL)
    ratio = tail.clamp(min=SMALLEST_TAIL).log() - said_tail.log()
    return found + torch.where(tail > SMALLEST_TAIL, tail * ratio, torch.zeros_like(tail))
