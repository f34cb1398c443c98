"""A text CNN over static embeddings: convolutions over neighbouring tokens, the largest answer of each filter, a head
(Kim 1408.5882). Depthwise-separable as in Xception (Chollet 1610.02357): each dimension is convolved alone, then a
1 x 1 convolution mixes them, dim * (k + filters) products a token instead of dim * k * filters.

Where the order of words decides ("not refunded", "from A to B"), bags of tokens see nothing; this does, at the price of
a small matrix a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillhouse.distill.heads import head
from stillhouse.distill.known_rows import KnownRows

WIDTHS: Final = (2, 3)  # tokens that a filter sees


class TextCnn(nn.Module):
    """Tokens' vectors, their sum over sqrt(n) beside the largest answers of `filters` filters of each width; a head.

    >>> student = TextCnn([np.array([1, 2])], torch.eye(4), labels=2, filters=3).eval()
    >>> bool(torch.allclose(student(torch.tensor([[1, 2]])), student(torch.tensor([[2, 1]]))))  # order counts
    False
    """

    def __init__(
        self,
        seen: Sequence[NDArray[np.int64]],
        vectors: Tensor,
        labels: int,
        *,
        filters: int = 128,
        hidden: int = 0,
        dropout: float = 0.0,
    ) -> None:
        """`seen` and `vectors` as for `KnownRows`; `hidden` units in the head, 0: linear; `dropout` while it learns."""
        super().__init__()
        dim = vectors.shape[1]
        self.rows = KnownRows(seen, vectors)
        self.depthwise = nn.ParameterList(nn.Parameter(torch.randn(width, dim) / width**0.5) for width in WIDTHS)
        self.pointwise = nn.ModuleList(nn.Linear(dim, filters) for _ in WIDTHS)
        self.dropout = nn.Dropout(dropout)
        self.head = head(dim + filters * len(WIDTHS), labels, hidden)

    def forward(self, features: Tensor) -> Tensor:
        """Logits float32 [B, labels] of token ids `features` int64 [B, n], padded at the end with 0."""
        vectors = self.rows(features)
        real = (features > 0).to(vectors.dtype)
        size = real.sum(dim=1, keepdim=True).clamp(min=1.0)
        found = [vectors.sum(dim=1) / size.sqrt()]
        length = features.shape[1]
        for width, weights, pointwise in zip(WIDTHS, self.depthwise, self.pointwise, strict=True):
            # Zeros after the end, so that each real token begins one window, however short the text is.
            padded = nn.functional.pad(vectors, (0, 0, 0, width - 1))
            # A depthwise convolution as products of shifted texts: faster in ONNX Runtime than as `Conv`.
            windows = sum(padded[:, place : place + length] * weights[place] for place in range(width))
            # ReLU leaves nothing below 0, so windows of padding, set to 0, never win.
            found.append((pointwise(windows).relu() * real[:, :, None]).amax(dim=1))
        logits: Tensor = self.head(self.dropout(torch.cat(found, dim=1)))
        return logits

    def settle(self) -> None:
        """Nothing learns any more (`KnownRows.settle`)."""
        self.rows.settle()
