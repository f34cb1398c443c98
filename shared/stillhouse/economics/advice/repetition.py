"""How often requests repeat, exactly and nearly, and how much of what comes is new as time goes on."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from stillhouse.store.redaction import normalise

SHINGLE: Final = 3  # letters
LEAST_OVERLAP: Final = 0.75  # Jaccard, from which two texts are near-duplicates
ROWS, BANDS = 5, 16  # of MinHash: texts that overlap by 75 % are found with probability 0.987
COMPARED: Final = 20  # candidates with the most bands in common, then a text counts as new
MOST: Final = 5000  # the newest requests are looked at
PARTS: Final = 5


@dataclass(frozen=True, slots=True)
class Repetition:
    """Shares of requests that repeat an earlier one: but for case and punctuation, or but for a few letters."""

    exact: float
    near: float


@dataclass(frozen=True, slots=True)
class Novelty:
    """Share of words and word pairs that no earlier fifth of the requests had: in the second fifth and in the last."""

    early: float
    late: float


def repetition(inputs: Sequence[str]) -> Repetition:
    """Of the newest 5,000 requests, in their order. Near-duplicates by MinHash with banding (Broder 1997), compared."""
    texts = [normalise(text) for text in inputs[-MOST:]]
    seen: set[str] = set()
    exact = near = 0
    bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    sets: list[frozenset[int]] = []
    rng = np.random.default_rng(0)
    multipliers = rng.integers(1, 2**64, ROWS * BANDS, dtype=np.uint64) | np.uint64(1)
    for text in texts:
        if text in seen:
            exact += 1
            near += 1
            continue
        seen.add(text)
        shingles = _shingles(text)
        hashed = np.fromiter(shingles, dtype=np.uint64, count=len(shingles))
        # Multiplication modulo 2^64 by an odd number permutes; the upper half of the product is well mixed.
        signature = ((hashed[:, None] * multipliers[None, :]) >> np.uint64(32)).min(axis=0).astype(np.uint32)
        keys = [(band, signature[band * ROWS : (band + 1) * ROWS].tobytes()) for band in range(BANDS)]
        shared = Counter(other for key in keys for other in bands[key])
        near += any(_overlap(shingles, sets[other]) >= LEAST_OVERLAP for other, _ in shared.most_common(COMPARED))
        for key in keys:
            bands[key].append(len(sets))
        sets.append(shingles)
    total = max(1, len(texts))
    return Repetition(exact / total, near / total)


def novelty(inputs: Sequence[str]) -> Novelty:
    """Of requests in order of time, in fifths."""
    known: set[str] = set()
    shares = []
    for part in np.array_split(np.arange(len(inputs)), PARTS):
        terms = [term for i in part for term in _terms(inputs[i])]
        shares.append(sum(term not in known for term in terms) / max(1, len(terms)))
        known.update(terms)
    return Novelty(shares[1], shares[-1])


def _terms(text: str) -> list[str]:
    words = normalise(text).split()
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def _shingles(text: str) -> frozenset[int]:
    padded = text.ljust(SHINGLE)
    return frozenset(zlib.crc32(padded[i : i + SHINGLE].encode()) for i in range(len(padded) - SHINGLE + 1))


def _overlap(first: frozenset[int], second: frozenset[int]) -> float:
    return len(first & second) / len(first | second)
