"""What a text is like, and whether it is like those recorded before a student was live. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillhouse.models.features import hashed_features, prepare
from stillhouse.quality.exceedance import tolerance_limit

BUCKETS: Final = 1 << 20  # of n-grams; so many that those of 20,000 texts leave most of them empty
MOST: Final = 512  # n-grams of one text
WIDTH: Final = 128  # of embeddings
KNOWN_SHARE: Final = 0.85  # of the recorded texts, the oldest: what is known; on the others the limit is found
RATE: Final = 0.05  # share of texts that may lie above the limit


def ngrams(text: str) -> NDArray[np.int64]:
    """The text's hashed n-grams, as the store would keep the text: redacted."""
    return hashed_features(prepare(text), BUCKETS, MOST)


def embed(ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """A unit vector [WIDTH] of n-gram ids: each adds +1 or -1 at one place (Weinberger et al., arXiv 0902.2206)."""
    signs = np.where((ids >> 7) & 1, 1.0, -1.0)
    vector = np.bincount(ids % WIDTH, weights=signs, minlength=WIDTH)
    norm = float(np.linalg.norm(vector))
    return np.asarray(vector / norm if norm else vector, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Known:
    """The n-grams of recorded texts. `limit`: at most 5 % of texts like them have a greater share of other n-grams."""

    buckets: NDArray[np.bool_]
    limit: float

    @classmethod
    def learn(cls, texts: Sequence[str], delta: float) -> Known | None:
        """From texts in order of time. The limit fails with probability `delta`; None: too few texts for one."""
        cut = round(KNOWN_SHARE * len(texts))
        buckets = np.zeros(BUCKETS, dtype=np.bool_)
        for text in texts[:cut]:
            buckets[ngrams(text)] = True
        known = cls(buckets, 1.0)
        limit = tolerance_limit([known.novelty(ngrams(text)) for text in texts[cut:]], RATE, delta)
        return None if limit is None else cls(buckets, limit)

    def novelty(self, ids: NDArray[np.int64]) -> float:
        """The share of a text's n-grams that no recorded text had."""
        return float(1.0 - self.buckets[ids].mean())
