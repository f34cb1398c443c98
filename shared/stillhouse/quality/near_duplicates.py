"""Finding texts that are the same but for a few letters: so that what a student is examined on is not in its lessons.

Two texts are near-duplicates where their normalised forms are equal, or where the sets of their 3-letter shingles
overlap by at least 75 % (Jaccard; Broder 1997). Where one side is small (a golden set) the overlaps are counted exactly
through an index of its shingles: no hashing trick, and nothing over the threshold is missed. Among all texts of a
dataset pairs are found by MinHash: sets agree in the smallest of their hashes as often as they overlap. Of 64 hashes 16
bands of 4 are compared, so that of pairs at the threshold 99.8 % are found (1 - (1 - 0.75^4)^16); what is found is
counted exactly.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final
from zlib import crc32

import numpy as np

from stillhouse.store.redaction import normalise, redact

SHINGLE: Final = 3
LEAST_OVERLAP: Final = 0.75
BANDS: Final = 16
BAND: Final = 4  # hashes
PRIME: Final = (1 << 61) - 1


class NearDuplicates:
    """The texts of a small set, indexed; `find` says which of them another text repeats."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Index `texts`; their places in this order are what `find` gives."""
        self._sizes: list[int] = []
        self._index: dict[str, list[int]] = defaultdict(list)
        for place, text in enumerate(texts):
            shingles = _shingles(text)
            self._sizes.append(len(shingles))
            for shingle in shingles:
                self._index[shingle].append(place)

    def find(self, text: str) -> int | None:
        """The place of the text that `text` repeats most closely; None where it repeats none."""
        shingles = _shingles(text)
        shared: Counter[int] = Counter()
        for shingle in shingles:
            shared.update(self._index.get(shingle, ()))
        best, place = 0.0, None
        for other, common in shared.items():
            overlap = common / (len(shingles) + self._sizes[other] - common)
            if overlap >= LEAST_OVERLAP and overlap > best:
                best, place = overlap, other
        return place


def distinct(texts: Sequence[str]) -> list[int]:
    """The places of `texts`, in order, that (nearly) repeat none of the kept ones before them."""
    random = np.random.default_rng(0)  # the same texts give the same places
    factors = [int(one) for one in random.integers(1, PRIME, BANDS * BAND)]
    offsets = [int(one) for one in random.integers(0, PRIME, BANDS * BAND)]
    hashed: dict[str, np.ndarray[tuple[int], np.dtype[np.uint64]]] = {}
    seen: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    kept: list[int] = []
    sets: dict[int, set[str]] = {}
    for place, text in enumerate(texts):
        shingles = _shingles(text)
        for shingle in shingles - hashed.keys():
            number = crc32(shingle.encode())
            hashed[shingle] = np.array(
                [(a * number + b) % PRIME for a, b in zip(factors, offsets, strict=True)], dtype=np.uint64
            )
        smallest = np.min([hashed[shingle] for shingle in sorted(shingles)], axis=0)
        bands = [(band, smallest[band * BAND : (band + 1) * BAND].tobytes()) for band in range(BANDS)]
        likely = {other for band in bands for other in seen[band]}
        if any(len(sets[one] & shingles) >= LEAST_OVERLAP * len(sets[one] | shingles) for one in sorted(likely)):
            continue
        kept.append(place)
        sets[place] = shingles
        for band in bands:
            seen[band].append(place)
    return kept


def _shingles(text: str) -> set[str]:
    # Redacted as the store redacts: what is compared with was recorded without personal data.
    plain = normalise(redact(text).text)
    return {plain[i : i + SHINGLE] for i in range(max(1, len(plain) - SHINGLE + 1))}
