"""KL(q || p): the student says only what the teacher might (Gu et al. 2306.08543, equation 1).

>>> import torch
>>> round(float(reverse_kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())), 4)
0.1308
"""

from __future__ import annotations

from torch import Tensor

from stillhouse.distill.objectives.forward_kl import forward_kl


def reverse_kl(p: Tensor, q: Tensor) -> Tensor:
    """sum_v q_v (log q_v - log p_v) [...], of log-probabilities `p`, `q` [..., V]."""
    return forward_kl(q, p)
