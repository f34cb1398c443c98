"""A table of vectors of which only the rows that training sees learn: what learning a large vocabulary costs is then
what the texts need, and words that they lack keep the vectors that they came with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class KnownRows(nn.Module):
    """Vectors of token ids. Padding, id 0, is a row of zeros."""

    places: Tensor
    table: nn.Module  # `export` puts a table of int8 in its place

    def __init__(self, seen: Sequence[NDArray[np.int64]], vectors: Tensor) -> None:
        """`seen`: the ids of every training text, each int64 [n]; `vectors` float32 [vocabulary, dim] to start with.

        ValueError for an id beyond the vocabulary.
        """
        super().__init__()
        vocabulary, dim = vectors.shape
        known = np.unique(np.concatenate([np.zeros(1, np.int64), *seen]))
        if known[-1] >= vocabulary or known[0] < 0:
            raise ValueError(f"ids go from {known[0]} to {known[-1]}; the vocabulary has {vocabulary}")
        others = np.setdiff1d(np.arange(vocabulary), known)
        places = np.zeros((vocabulary, 1), dtype=np.int32)
        places[np.concatenate([known, others]), 0] = np.arange(vocabulary)
        self.register_buffer("places", torch.from_numpy(places), persistent=False)
        start = vectors[torch.from_numpy(known)].clone()
        start[0] = 0.0
        table = nn.Embedding(len(known), dim, padding_idx=0)
        with torch.no_grad():
            table.weight.copy_(start)
        self.table = table
        self._others: Tensor | None = vectors[torch.from_numpy(others)].clone()

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors float32 [B, n, dim] of `ids` int64 [B, n]."""
        rows = nn.functional.embedding(ids, self.places).squeeze(-1)
        if self.training or self._others is None:
            found: Tensor = self.table(rows)
            return found
        return nn.functional.embedding(rows, self._whole(self._others))

    def settle(self) -> None:
        """Nothing learns any more: one table of all rows, as it serves."""
        if self._others is not None:
            whole = self._whole(self._others)
            table = nn.Embedding(len(whole), whole.shape[1], padding_idx=0).requires_grad_(False)
            table.weight.copy_(whole)
            self.table, self._others = table, None

    def _whole(self, others: Tensor) -> Tensor:
        assert isinstance(self.table, nn.Embedding)
        return torch.cat([self.table.weight.detach(), others])
