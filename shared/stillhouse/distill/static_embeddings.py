"""Static embeddings, distilled from the sentence encoder: one vector a token, a sum, a head. No attention at all.

The vectors start as the encoder's own of each token, reduced by principal components and weighted by how rare the token
is (smooth inverse frequency, Arora, Liang & Ma, "A simple but tough-to-beat baseline for sentence embeddings", ICLR
2017), as Model2Vec makes them (Tulkens & van Dongen, 2024). Other than there, they go on learning, vectors and head
together, on the teacher's soft answers. A token that no training text has keeps the vector that it started with, which
is why static embeddings know more words than hashed n-grams do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillhouse.distill.heads import head
from stillhouse.distill.known_rows import KnownRows

BEGIN_AND_END: Final = (101, 102)  # [CLS] and [SEP] of the encoder's vocabulary
AT_ONCE: Final = 512  # tokens
SIF: Final = 1e-4  # `a` of a / (a + p)
SCALE: Final = 0.3  # standard deviation of a starting vector's elements


class StaticEmbeddings(nn.Module):
    """Sum of the tokens' vectors over sqrt(their number), then a head: the more a text says, the surer the answer.

    >>> vectors = torch.eye(4)
    >>> student = StaticEmbeddings([np.array([1, 2])], vectors, labels=2).eval()
    >>> tuple(student(torch.tensor([[1, 2, 3, 0], [3, 0, 0, 0]])).shape)
    (2, 2)
    """

    def __init__(
        self,
        seen: Sequence[NDArray[np.int64]],
        vectors: Tensor,
        labels: int,
        *,
        hidden: int = 0,
        dropout: float = 0.0,
    ) -> None:
        """`seen` and `vectors` as for `KnownRows`; `hidden` units in the head, 0: linear; `dropout` while it learns."""
        super().__init__()
        self.rows = KnownRows(seen, vectors)
        self.dropout = nn.Dropout(dropout)
        self.head = head(vectors.shape[1], labels, hidden)

    def forward(self, features: Tensor) -> Tensor:
        """Logits float32 [B, labels] of token ids `features` int64 [B, n], padded with 0."""
        size = (features > 0).sum(dim=1, keepdim=True).clamp(min=1)
        vectors: Tensor = self.rows(features)
        logits: Tensor = self.head(self.dropout(vectors.sum(dim=1) / size.to(vectors.dtype).sqrt()))
        return logits

    def settle(self) -> None:
        """Nothing learns any more (`KnownRows.settle`)."""
        self.rows.settle()


def token_vectors(dim: int) -> Tensor:
    """The sentence encoder's vector of every token of its vocabulary, float32 [vocabulary, dim]; row 0 is padding, 0.

    Each token alone, between the marks of beginning and end: the mean of the last states, reduced to the first `dim`
    principal components and weighted by a / (a + p), where p follows Zipf's law, because the vocabulary is sorted by
    frequency. Some 40 CPU seconds, once a process. Raises `ModelError` where the encoder is not installed.
    """
    return weighted(components(encoded_vocabulary(), dim))


@lru_cache(maxsize=1)
def encoded_vocabulary() -> Tensor:
    """What the sentence encoder makes of every token alone, float32 [vocabulary, width]; not to be written to."""
    # Here and not above: transformers takes seconds to import.
    from stillhouse.distill.cut_encoder import load_transformer

    transformer = load_transformer().eval()
    count = int(transformer.config.vocab_size)
    found = torch.empty(count, int(transformer.config.hidden_size))
    begin, end = BEGIN_AND_END
    with torch.no_grad():
        for start in range(0, count, AT_ONCE):
            ids = torch.arange(start, min(count, start + AT_ONCE))
            alone = torch.stack([torch.full_like(ids, begin), ids, torch.full_like(ids, end)], dim=1)
            states = transformer(input_ids=alone, attention_mask=torch.ones_like(alone)).last_hidden_state
            found[start : start + len(ids)] = states.mean(dim=1)
    return found


def components(vectors: Tensor, dim: int) -> Tensor:
    """The first `dim` principal components of `vectors` [n, width], float32 [n, dim]; ValueError where dim > width.

    >>> line = components(torch.tensor([[3.0, 4.0], [6.0, 8.0], [9.0, 12.0]]), 1)
    >>> [round(value, 4) for value in line.flatten().tolist()]
    [-5.0, 0.0, 5.0]
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
