"""The cheapest student: a linear classifier of low rank on hashed n-grams (fastText, Joulin et al. 1607.01759)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillhouse.distill.heads import head


class HashedNgrams(nn.Module):
    """Sum of one vector per feature over sqrt(their number), then a head: W (1 / sqrt(n)) sum_i e_i + b.

    Only features seen in training have a vector; the others, like padding, count for nothing, where untrained vectors
    would be noise. So the table has a row for each feature seen and not for each bucket: `places` maps bucket to row.

    >>> student = HashedNgrams([np.array([7, 9])], buckets=16, dim=4, labels=2).eval()
    >>> tuple(student(torch.tensor([[7, 9], [9, 0]])).shape)
    (2, 2)
    >>> torch.equal(student(torch.tensor([[7, 0]])), student(torch.tensor([[7, 5]])))  # 5 was never seen
    True
    """

    places: Tensor

    def __init__(self, seen: Sequence[NDArray[np.int64]], buckets: int, dim: int, labels: int, hidden: int = 0) -> None:
        """`seen`: the features of every training text, each int64 [n], ids in [0, buckets), 0 being padding.

        `hidden` units in the head, 0: a linear one.
        """
        super().__init__()
        known = np.unique(np.concatenate([np.zeros(1, np.int64), *seen]))
        places = np.zeros((buckets, 1), dtype=np.int32)
        places[known, 0] = np.arange(len(known))
        # Rebuilt from the data when training resumes, so no part of checkpoints.
        self.register_buffer("places", torch.from_numpy(places), persistent=False)
        table = nn.Embedding(len(known), dim, padding_idx=0)
        with torch.no_grad():
            table.weight.mul_(0.05)
        self.table: nn.Module = table  # `export` puts a table of int8 in its place
        self.head = head(dim, labels, hidden)

    def forward(self, features: Tensor) -> Tensor:
        """Logits float32 [B, labels] of `features` int64 [B, n], padded with 0."""
        rows = nn.functional.embedding(features, self.places).squeeze(-1)
        size = (rows > 0).sum(dim=1, keepdim=True).clamp(min=1).to(torch.float32)
        bag = self.table(rows).sum(dim=1) / size.sqrt()
        logits: Tensor = self.head(bag)
        return logits
