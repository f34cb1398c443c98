"""Finding texts that are the same but for a few letters: so that what a student is examined on is not in its lessons.

Two texts are near-duplicates where their normalised forms are equal, or where the sets of their 3-letter shingles
overlap by at least 75 % (Jaccard; Broder 1997). One side is small (a golden set), so the overlaps are counted exactly
through an index of its shingles: no hashing trick, and nothing over the threshold is missed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

from stillhouse.store.redaction import normalise, redact

SHINGLE: Final = 3
LEAST_OVERLAP: Final = 0.75


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


def _shingles(text: str) -> set[str]:
    # Redacted as the store redacts: what is compared with was recorded without personal data.
    plain = normalise(redact(text).text)
    return {plain[i : i + SHINGLE] for i in range(max(1, len(plain) - SHINGLE + 1))}
