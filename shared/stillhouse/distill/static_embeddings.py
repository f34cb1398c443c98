"""Static embeddings, distilled from the sentence encoder: one vector a token, a sum, a head. No attention at all.

The vectors start as the encoder's own of each token, reduced by principal components and weighted by how rare the token
is (smooth inverse frequency, Arora, Liang & Ma, "A simple but tough-to-beat baseline for sentence embeddings", ICLR
2017), as Model2Vec makes them (Tulkens & van Dongen, 2024), who send each token through all layers first. Other than
there, they go on learning: vectors, n-grams and head together on the teacher's soft answers. A token that no training
text has keeps the vector that it started with, which is why static embeddings know more words than hashed n-grams do.
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

SIF: Final = 1e-4  # `a` of a / (a + p)
SCALE: Final = 0.3  # standard deviation of a starting vector's elements


class StaticEmbeddings(nn.Module):
    """Sum of the tokens' vectors over sqrt(their number); beside it, where there are buckets, that of the hashed
    n-grams'; then a head. Sums over sqrt(n) and not means: the more a text says, the surer the answer.
    """

    def __init__(
        self,
        seen: Sequence[NDArray[np.int64]],
        vectors: Tensor,
        labels: int,
        *,
        buckets: int = 0,
        hidden: int = 0,
        dropout: float = 0.0,
    ) -> None:
        """`seen` and `vectors` as for `KnownRows`; `hidden` units in the head, 0: linear; `dropout` while it learns."""
        super().__init__()
        self.vocabulary, dim = vectors.shape
        self.rows = KnownRows(seen, vectors, buckets)
        self.bags = 2 if buckets else 1
        self.dropout = nn.Dropout(dropout)
        self.head = head(self.bags * dim, labels, hidden)

    def forward(self, features: Tensor) -> Tensor:
        """Logits float32 [B, labels] of `features` int64 [B, n], padded with 0: token ids, then the vocabulary's size
        added to hashed n-grams.
        """
        vectors = self.rows(features)
        masks = [(features > 0) & (features < self.vocabulary)] if self.bags == 2 else [features > 0]
        if self.bags == 2:
            masks.append(features >= self.vocabulary)
        bags = torch.stack(masks, dim=1).to(vectors.dtype)  # [B, bags, n]
        sizes = bags.sum(dim=2, keepdim=True).clamp(min=1.0)
        summed = torch.bmm(bags, vectors) / sizes.sqrt()
        logits: Tensor = self.head(self.dropout(summed.flatten(1)))
        return logits

    def settle(self) -> None:
        """Nothing learns any more (`KnownRows.settle`)."""
        self.rows.settle()


def token_vectors(dim: int) -> Tensor:
    """The sentence encoder's own vector of every token of its vocabulary, float32 [vocabulary, dim]; row 0 is 0.

    Its input vectors, reduced to the first `dim` principal components and weighted by a / (a + p), where p follows
    Zipf's law, because the vocabulary is sorted by frequency. Raises `ModelError` where the encoder is not installed.
    """
    # Here and not above: transformers takes seconds to import.
    from stillhouse.distill.cut_encoder import load_transformer

    table: Tensor = load_transformer().embeddings.word_embeddings.weight.detach()
    return weighted(components(table, dim))


def components(vectors: Tensor, dim: int) -> Tensor:
    """The first `dim` principal components of `vectors` [n, width], float32 [n, dim]; ValueError where dim > width.

    >>> components(torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]), 1).abs().flatten().tolist()
    [2.2360680103302, 0.0, 2.2360680103302]
    """
    if dim > vectors.shape[1]:
        raise ValueError(f"dim = {dim} is more than the encoder's {vectors.shape[1]}; set dim to that or less")
    centred = (vectors - vectors.mean(dim=0)).double()
    values, directions = torch.linalg.eigh(centred.T @ centred)
    kept = directions[:, values.argsort(descending=True)[:dim]]
    # A direction and its opposite are the same component: the largest element decides the sign.
    signs = kept.gather(0, kept.abs().argmax(dim=0, keepdim=True)).sign()
    reduced: Tensor = (centred @ (kept * signs)).float()
    return reduced


def weighted(vectors: Tensor, a: float = SIF) -> Tensor:
    """`vectors` [n, dim], sorted by how frequent their tokens are, times a / (a + p); scaled to `SCALE`, row 0 to 0."""
    ranks = torch.arange(2, len(vectors) + 2, dtype=torch.float64)
    shares = (1.0 / ranks) / (1.0 / ranks).sum()
    made = vectors * (a / (a + shares)).to(vectors.dtype)[:, None]
    made = made * (SCALE / made.std().clamp(min=1e-12))
    made[0] = 0.0
    return made
