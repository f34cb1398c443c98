"""The generalised Jensen-Shannon divergence (Agarwal et al. 2306.13649, equation 1), as TRL has it.

>>> import torch
>>> p, q = torch.tensor([1.0, 0.0]).log(), torch.tensor([0.0, 1.0]).log()
>>> round(float(generalised_jsd(p, q, 0.5)), 4)  # log 2, where the two have nothing in common
0.6931
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.distill.objectives.forward_kl import forward_kl, require_one_shape
from stillhouse.distill.objectives.reverse_kl import reverse_kl


def generalised_jsd(p: Tensor, q: Tensor, beta: float) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q [...], of log-probabilities [..., V].

    `beta` 0 is KL(p || q) and 1 is KL(q || p), by definition, as in TRL: the limits of the divergence over beta
    (1 - beta). At most log 2. ValueError for a beta outside of [0, 1], or two shapes.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must be between 0 and 1, not {beta}")
    require_one_shape(p, q)
    if beta == 0.0:
        return forward_kl(p, q)
    if beta == 1.0:
        return reverse_kl(p, q)
    mixed = torch.logaddexp(p + math.log(beta), q + math.log1p(-beta))
    return beta * forward_kl(p, mixed) + (1.0 - beta) * forward_kl(q, mixed)
