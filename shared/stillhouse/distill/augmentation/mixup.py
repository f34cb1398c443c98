"""Mixup on embeddings: between two texts the answer lies between theirs (Zhang et al. 1710.09412, equation 1).

x' = lambda x_i + (1 - lambda) x_j and y' = lambda y_i + (1 - lambda) y_j with lambda ~ Beta(a, a), one for each row.
Tokens cannot be mixed, sentence vectors can (Guo, Mao & Zhang 1905.08941).

>>> import torch
>>> vectors, soft = torch.eye(2), torch.eye(2)
>>> mixed, targets = mixed_up(vectors, soft, 0.4, torch.Generator().manual_seed(0))
>>> bool(torch.allclose(mixed, targets))
True
"""

from __future__ import annotations

import torch
from torch import Tensor


def mixed_up(vectors: Tensor, soft: Tensor, concentration: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`vectors` [B, ...] and probabilities `soft` [B, L], each row mixed with that of another place of the batch.

    `concentration` is the a of Beta(a, a): near 0 hardly anything is mixed, at 1 every share is as likely. The larger
    share is a row's own. ValueError for a concentration of 0 or less, or batches of two sizes.
    """
    if concentration <= 0:
        raise ValueError(f"Beta({concentration:g}, {concentration:g}) does not exist; give a number above 0")
    if len(vectors) != len(soft):
        raise ValueError(f"{len(vectors)} vectors and {len(soft)} targets are not of one batch")
    # A beta variable is one of two gammas by their sum; torch's Beta takes no generator.
    shape = torch.full((2, len(vectors)), float(concentration), dtype=torch.float64)
    gammas = torch._standard_gamma(shape, generator=generator).clamp(min=1e-30)
    own = gammas[0] / gammas.sum(dim=0)
    own = torch.maximum(own, 1.0 - own)
    partner = torch.randperm(len(vectors), generator=generator)
    share = own.to(vectors.dtype).reshape(-1, *[1] * (vectors.dim() - 1))
    mixed = share * vectors + (1.0 - share) * vectors[partner]
    share = own.to(soft.dtype).unsqueeze(-1)
    return mixed, share * soft + (1.0 - share) * soft[partner]
