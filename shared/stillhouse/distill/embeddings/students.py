"""Two kinds of smaller encoders: static vectors, and the lowest layers of the larger one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.cut_encoder import CutEncoder
from stillhouse.distill.known_rows import KnownRows
from stillhouse.distill.static_embeddings import token_vectors


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
        real = attention_mask.unsqueeze(-1).to(self.map.weight.dtype)
        mean = (self.rows(input_ids) * real).sum(dim=1) / real.sum(dim=1).clamp(min=1e-9)
        return functional.normalize(self.map(mean), dim=-1)

    def settle(self) -> None:
        """Nothing learns any more (`KnownRows.settle`)."""
        self.rows.settle()


class CutSentences(nn.Module):
    """The lowest layers of the sentence encoder; the last of them learns to give what the whole one gave."""

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
