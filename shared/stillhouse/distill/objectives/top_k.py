"""A teacher's next-token distribution, kept small: its k likeliest tokens, and the mass of all others together.

Distillation from what is kept takes the others as one token. A divergence of what is merged is a lower bound of the
whole one (merging tokens never makes distributions easier to tell apart: data processing, Cover & Thomas 2006, 2.8),
equal to it where the student shares the rest out as the teacher does; without the tail a student would be taught that
the rest is impossible.

>>> import torch
>>> p = torch.tensor([[0.6, 0.2, 0.1, 0.1]]).log()
>>> kept = keep(p, 2)
>>> kept.bytes_per_token  # two ids of 16 bits, two logarithms and that of the tail
10.0
>>> [round(float(share), 3) for share in merged(kept, p)[0].exp()[0]]
[0.6, 0.2, 0.2]
>>> bool(top_k_kl(kept, p).abs() < 1e-3)  # of a student that says what its teacher does
True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.distill.objectives.forward_kl import forward_kl

FLOOR: Final = -60.0  # what is never said: finite, so that the reverse divergences are too


@dataclass(frozen=True, slots=True)
class TopK:
    """What is kept of n tokens.

    `ids` uint16 or uint32 [n, k], `log_probs` float16 [n, k], likeliest first; `tail` float16 [n] is the logarithm of
    what all other tokens have together.
    """

    ids: NDArray[np.unsignedinteger]
    log_probs: NDArray[np.float16]
    tail: NDArray[np.float16]

    @property
    def bytes_per_token(self) -> float:
        """Of the arrays, uncompressed."""
        return (self.ids.nbytes + self.log_probs.nbytes + self.tail.nbytes) / max(1, len(self.ids))

    def __getitem__(self, places: slice) -> TopK:
        """The same of some tokens."""
        return TopK(self.ids[places], self.log_probs[places], self.tail[places])


def keep(p: Tensor, k: int) -> TopK:
    """The `k` likeliest tokens of each of the log-probabilities `p` [n, V]. ValueError for a k outside of 1..V."""
    if not 1 <= k <= p.shape[-1]:
        raise ValueError(f"k must be between 1 and {p.shape[-1]}, the size of the vocabulary, not {k}")
    p = p.float()
    found = p.topk(k, dim=-1)
    # Not 1 less the head: a small tail would be lost in what float32 rounds.
    tail = p.scatter(-1, found.indices, -torch.inf).logsumexp(dim=-1)
    return TopK(
        found.indices.cpu().numpy().astype(id_type(p.shape[-1])),
        found.values.clamp(min=FLOOR).cpu().numpy().astype(np.float16),
        tail.clamp(min=FLOOR).cpu().numpy().astype(np.float16),
    )


def id_type(vocabulary: int) -> type[np.unsignedinteger]:
    """The smallest type that holds every id of a vocabulary.

    >>> id_type(50_000).__name__, id_type(150_000).__name__
    ('uint16', 'uint32')
    """
    return np.uint16 if vocabulary <= 1 << 16 else np.uint32


def joined(parts: Sequence[TopK]) -> TopK:
    """What is kept of several texts, one after the other.

    >>> p = torch.tensor([[0.6, 0.3, 0.1]]).log()
    >>> joined([keep(p, 2), keep(p, 2)]).ids.tolist()
    [[0, 1], [0, 1]]
    """
    return TopK(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.log_probs for part in parts]),
        np.concatenate([part.tail for part in parts]),
    )


def merged(kept: TopK, q: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities float32 [n, k + 1] of teacher and student, the tail last, of log-probabilities `q` [n, V].

    ValueError where `q` is not of the n tokens that are kept, or has fewer than k columns.
    """
    if q.dim() != 2 or len(q) != len(kept.ids) or kept.ids.shape[1] > q.shape[1]:
        raise ValueError(f"the teacher's tokens are kept as {kept.ids.shape}; the student's are {tuple(q.shape)}")
    ids = torch.from_numpy(kept.ids.astype(np.int64)).to(q.device)
    head = torch.from_numpy(kept.log_probs.astype(np.float32)).to(q.device)
    tail = torch.from_numpy(kept.tail.astype(np.float32)).to(q.device)
    said = q.gather(-1, ids)
    if ids.shape[-1] == q.shape[-1]:
        return head.log_softmax(dim=-1), said
    rest = q.scatter(-1, ids, -torch.inf).logsumexp(dim=-1, keepdim=True)
    # Normalised anew: float16 sums to 1 only so closely, and a divergence would be below 0.
    return torch.cat([head, tail.unsqueeze(-1)], dim=-1).log_softmax(dim=-1), torch.cat([said, rest], dim=-1)


def top_k_kl(kept: TopK, q: Tensor) -> Tensor:
    """KL(p || q) [n] over the kept tokens and the tail, of what `keep` kept and log-probabilities `q` [n, V]."""
    return forward_kl(*merged(kept, q))
