"""KL(p || q): the student covers everything that the teacher may say (Hinton, Vinyals & Dean 1503.02531).

>>> import torch
>>> round(float(forward_kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())), 4)
0.1438
"""

from __future__ import annotations

from torch import Tensor


def forward_kl(p: Tensor, q: Tensor) -> Tensor:
    """sum_v p_v (log p_v - log q_v) [...], of log-probabilities `p`, `q` [..., V]. A token that p rules out is 0."""
    never = p.isneginf()  # 0 log 0 is 0, and so is its gradient
    return (p.exp() * (p.masked_fill(never, 0.0) - q.masked_fill(never, 0.0))).sum(dim=-1)
