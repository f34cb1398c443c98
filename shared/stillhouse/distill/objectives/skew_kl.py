"""Skewed KL divergences (Ko et al. 2402.03898, DistiLLM): finite and smooth where one distribution says never.

>>> import torch
>>> p, q = torch.tensor([1.0, 0.0]).log(), torch.tensor([0.0, 1.0]).log()
>>> round(float(skew_kl(p, q, 0.1)), 4)  # -log 0.1, where KL(p || q) is infinite
2.3026
>>> round(float(skew_reverse_kl(p, q, 0.1)), 4)
2.3026
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.distill.objectives.forward_kl import forward_kl, require_one_shape


def skew_kl(p: Tensor, q: Tensor, skew: float = 0.1) -> Tensor:
    """KL(p || skew p + (1 - skew) q) [...], of log-probabilities [..., V]; at most -log skew. `skew` in (0, 1)."""
    return forward_kl(p, _mixed(p, q, skew))


def skew_reverse_kl(p: Tensor, q: Tensor, skew: float = 0.1) -> Tensor:
    """KL(q || skew q + (1 - skew) p) [...], of log-probabilities [..., V]; at most -log skew. `skew` in (0, 1)."""
    return forward_kl(q, _mixed(q, p, skew))


def _mixed(own: Tensor, other: Tensor, skew: float) -> Tensor:
    if not 0.0 < skew < 1.0:
        raise ValueError(f"skew must be between 0 and 1, not {skew}")
    require_one_shape(own, other)
    return torch.logaddexp(own + math.log(skew), other + math.log1p(-skew))
