"""The modules that score: an encoder that reads query and document together, or each by itself, and lexical weights."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.cut_encoder import CutEncoder, padding_bias
from stillhouse.models.rerank_text import FEATURES

STARTING_COSINE: Final = 20.0  # cosines within a list differ by some tenths, log-odds by some units
STARTING_BM25: Final = 0.5  # of the score standardised within the list
STARTING_CROSS: Final = -2.0
DEEP: Final = 20.0  # entries of vectors of length 1 are small
NEVER: Final = -1e9


class Encoder(nn.Module):
    """The lowest `layers` of MiniLM, of which the highest `learn` learn."""

    def __init__(self, layers: int, learn: int) -> None:
        """Loads the weights from their package. Raises `ModelError`."""
        super().__init__()
        cut = CutEncoder(layers, 1, learn=learn)
        self.transformer: Any = cut.transformer
        self.below = cut.below
        self.cosine = nn.Parameter(torch.tensor(STARTING_COSINE))


class PairEncoder(Encoder):
    """A cross-encoder that begins as what its encoder was trained for: the cosine of two texts' mean states.

    The layers that do not learn let each text attend to itself alone (PreTTR, MacAvaney et al. 2004.14255), at its own
    positions; those that learn let them attend to each other, at a learnt cost that begins high. A linear head on the
    vectors' product and difference begins at zero.

    >>> encoder = PairEncoder(2, learn=1).eval()
    >>> ids, mask = torch.tensor([[101, 2073, 102, 2182, 102]]), torch.ones(1, 5, dtype=torch.int64)
    >>> encoder(ids, mask, torch.tensor([[0, 0, 0, 1, 1]])).shape  # one score a pair
    torch.Size([1])
    """

    def __init__(self, layers: int, learn: int) -> None:
        """As `Encoder`."""
        super().__init__(layers, learn)
        self.deep = nn.Linear(2 * int(self.transformer.config.hidden_size), 1)
        self.cross = nn.Parameter(torch.full((learn,), STARTING_CROSS))
        nn.init.zeros_(self.deep.weight)
        nn.init.zeros_(self.deep.bias)

    def lower(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """States float32 [B, n, width] below the layers that learn; they never change, so they are computed once.

        Types are 0 for the query's tokens and 1 for the document's, int64 [B, n].
        """
        asked = (attention_mask * (1 - token_type_ids)).sum(dim=1, keepdim=True)
        places = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        states: Tensor = self.transformer.embeddings(
            input_ids, position_ids=(places - asked * token_type_ids).clamp(min=0)
        )
        bias = _apart(attention_mask, token_type_ids, NEVER)
        for layer in self.transformer.encoder.layer[: self.below]:
            states = layer(states, bias)
        return states

    def forward(self, inputs: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Scores float32 [B] of token ids int64 [B, n], or of what `lower` made of them."""
        states = self.lower(inputs, attention_mask, token_type_ids) if inputs.dim() == 2 else inputs
        for place, layer in enumerate(self.transformer.encoder.layer[self.below :]):
            states = layer(states, _apart(attention_mask, token_type_ids, self.cross[place]))
        asked = mean_of(states, attention_mask * (1 - token_type_ids))
        read = mean_of(states, attention_mask * token_type_ids)
        both = torch.cat([asked * read, (asked - read).abs()], dim=1)
        deep: Tensor = self.deep(both).squeeze(1)
        return self.cosine * (asked * read).sum(dim=1) + DEEP * deep


class TwinEncoder(Encoder):
    """A bi-encoder: one encoder for queries and documents (Sentence-BERT, Reimers & Gurevych 1908.10084).

    >>> encoder = TwinEncoder(2, learn=1).eval()
    >>> vectors = encoder(torch.tensor([[101, 2073, 102]]), torch.ones(1, 3, dtype=torch.int64))
    >>> tuple(vectors.shape), round(vectors.norm().item(), 4)
    ((1, 384), 1.0)
    """

    def lower(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As `PairEncoder.lower`, of single texts."""
        states: Tensor = self.transformer.embeddings(input_ids)
        for layer in self.transformer.encoder.layer[: self.below]:
            states = layer(states, padding_bias(attention_mask))
        return states

    def forward(self, inputs: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors float32 [B, width] of length 1, of token ids int64 [B, n] or of what `lower` made of them."""
        states = self.lower(inputs, attention_mask) if inputs.dim() == 2 else inputs
        for layer in self.transformer.encoder.layer[self.below :]:
            states = layer(states, padding_bias(attention_mask))
        return mean_of(states, attention_mask)


def _apart(attention_mask: Tensor, token_type_ids: Tensor, cost: Tensor | float) -> Tensor:
    """What is added to attention scores, float32 [B, 1, n, n]: `cost` between the two texts; padding is never seen."""
    other = (token_type_ids[:, None, :, None] != token_type_ids[:, None, None, :]).to(torch.float32)
    return padding_bias(attention_mask) + other * cost


def mean_of(states: Tensor, mask: Tensor) -> Tensor:
    """The mean state where `mask` int64 [B, n] is 1, scaled to length 1: float32 [B, width].

    >>> mean_of(torch.tensor([[[6.0], [2.0], [9.0]]]), torch.tensor([[1, 1, 0]])).tolist()
    [[1.0]]
    """
    weights = mask.unsqueeze(-1).to(states.dtype)
    return functional.normalize((states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9), dim=-1)


class Reranker(nn.Module):
    """An encoder with the weights of the lexical features: `rerank_student.within_list` of each document."""

    def __init__(self, encoder: PairEncoder | TwinEncoder) -> None:
        """The encoder; the lexical part begins as BM25 standardised within the list."""
        super().__init__()
        self.encoder = encoder
        self.lexical = nn.Linear(2 * len(FEATURES), 1, bias=False)
        nn.init.zeros_(self.lexical.weight)
        with torch.no_grad():
            self.lexical.weight[0, len(FEATURES)] = STARTING_BM25
