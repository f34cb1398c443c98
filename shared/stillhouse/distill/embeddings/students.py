"""Two kinds of smaller encoders: static vectors (Model2Vec, Tulkens & van Dongen 2024), and the lowest layers of the
larger one (initialised as DistilBERT is, Sanh et al. 1910.01108).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.cut_encoder import CutEncoder
from stillhouse.distill.known_rows import KnownRows
from stillhouse.distill.static_embeddings import token_vectors

RIDGE: Final = 1e-3  # of the mean square of an input


class StaticEncoder(nn.Module):
    """The mean of static vectors of tokens, which start as `token_vectors` are, mapped to the teacher's width."""

    def __init__(self, seen: Sequence[NDArray[np.int64]], dim: int, width: int) -> None:
        """`seen`: the token ids of every training text, each int64 [n]; `width` is the teacher's.

        Raises `ModelError` where the encoder is not installed.
        """
        super().__init__()
        self.rows = KnownRows(seen, token_vectors(dim))
        self.map = nn.Linear(dim, width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Sentence vectors of length 1, float32 [B, width]; the mask int64 [B, n] is 0 for padding."""
        return functional.normalize(self.map(self.means(input_ids, attention_mask)), dim=-1)

    def means(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The mean of the tokens' static vectors, float32 [B, dim]."""
        real = attention_mask.unsqueeze(-1).to(self.map.weight.dtype)
        mean: Tensor = (self.rows(input_ids) * real).sum(dim=1) / real.sum(dim=1).clamp(min=1e-9)
        return mean

    def begin(self, means: Tensor, wanted: Tensor) -> None:
        """Set the map to what gives `wanted` [n, width] for `means` [n, dim] best: least squares with a small ridge."""
        table = torch.cat([means, torch.ones(len(means), 1)], dim=1).double()
        squares = table.T @ table
        squares.diagonal().add_(RIDGE * float(squares.diagonal().mean()))
        found = torch.linalg.solve(squares, table.T @ wanted.double())
        with torch.no_grad():
            self.map.weight.copy_(found[:-1].T)
            self.map.bias.copy_(found[-1])

    def settle(self) -> None:
        """Nothing learns any more (`KnownRows.settle`)."""
        self.rows.settle()


class CutSentences(nn.Module):
    """The lowest layers of the sentence encoder; the last of them learns to give what the whole one gave.

    >>> student = CutSentences(2).eval()
    >>> vectors = student(torch.tensor([[101, 2073, 102]]), torch.ones(1, 3, dtype=torch.int64))
    >>> tuple(vectors.shape), round(vectors.norm().item(), 4)
    ((1, 384), 1.0)
    """

    def __init__(self, layers: int) -> None:
        """Raises `ModelError` where the encoder is not installed, or has fewer layers."""
        super().__init__()
        self.encoder = CutEncoder(layers, 1)
        self.encoder.head.requires_grad_(False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Sentence vectors of length 1, float32 [B, width], of token ids int64 [B, n] or `CutEncoder.lower`'s."""
        return functional.normalize(self.encoder(input_ids, attention_mask)[1], dim=-1)

    def settle(self) -> None:
        """Nothing is to be done."""
