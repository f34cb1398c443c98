"""The words of a reranking: what a query and its documents share, and which part of a document is worth reading.

The same code in training and in serving. `Lexicon` holds how rare words are (hashed, so that it is a small table of a
fixed size); it scores documents by BM25 (Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework", eq. 3.15)
and picks the sentences of a document that share rare words with the query, so that an encoder reads fewer tokens.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillhouse.models.port import ModelError

LEXICON_FILE: Final = "lexicon.npz"
BUCKETS: Final = 1 << 16
FEATURES: Final = ("bm25", "coverage", "first_sentence", "best_sentence", "pairs")
K1: Final = 1.2
B: Final = 0.75
_WORDS: Final = re.compile(r"[^\W_]+")
_SENTENCES: Final = re.compile(r"(?<=[.!?])\s+")
_STOP: Final = frozenset(
    word
    for line in (
        "a an and are as at be by for from has have in is it its of on",
        "or that the to was were with this these which",
    )
    for word in line.split()
)


def words_of(text: str) -> list[str]:
    """Words in lower case without the commonest ones, a plural's `s` cut off."""
    found = []
    for word in _WORDS.findall(text.lower()):
        if word in _STOP:
            continue
        found.append(word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] != "s" else word)
    return found


def sentences_of(text: str) -> list[str]:
    """Sentences in order; the first is a title where the document begins with one."""
    return [sentence for sentence in _SENTENCES.split(text.strip()) if sentence]


@dataclass(frozen=True, slots=True)
class Read:
    """A document as words, sentence by sentence: made once for all queries."""

    sentences: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    counts: Counter[str]
    length: int

    @classmethod
    def of(cls, document: str) -> Read:
        """Reads `document`."""
        sentences = tuple(sentences_of(document))
        words = tuple(tuple(words_of(sentence)) for sentence in sentences)
        counts = Counter(word for sentence in words for word in sentence)
        return cls(sentences, words, counts, sum(counts.values()))


class Lexicon:
    """How rare each word is among the documents it was fitted on, and how long these are.

    Example:
        >>> lexicon = Lexicon.fit(["red wine", "red paint", "blue paint"])
        >>> lexicon.rarity("wine") > lexicon.rarity("red")
        True
        >>> lexicon.features("red wine", ["red wine", "blue paint"])[:, 1].round(2).tolist()
        [1.0, 0.0]
    """

    def __init__(self, idf: NDArray[np.float32], mean_length: float) -> None:
        """`idf` float32 [65536] by the word's hash; `mean_length` in words."""
        if idf.shape != (BUCKETS,):
            raise ModelError(f"A lexicon has {BUCKETS} entries, this one {idf.shape}; fit it anew.")
        self._idf = idf
        self._mean = max(1.0, mean_length)

    @classmethod
    def fit(cls, documents: Iterable[str]) -> Lexicon:
        """Of `documents`: idf = ln(1 + (N - n + 0.5) / (n + 0.5)). Raises `ModelError` where there are none."""
        seen, count, total = np.zeros(BUCKETS, dtype=np.float64), 0, 0
        for document in documents:
            words = words_of(document)
            count, total = count + 1, total + len(words)
            for bucket in {_bucket(word) for word in words}:
                seen[bucket] += 1
        if not count:
            raise ModelError("A lexicon needs documents to be fitted on; there are none.")
        return cls(np.log1p((count - seen + 0.5) / (seen + 0.5)).astype(np.float32), total / count)

    def rarity(self, word: str) -> float:
        """The idf of a word of `words_of`, in nats."""
        return float(self._idf[_bucket(word)])

    def features(self, query: str, documents: Sequence[str | Read]) -> NDArray[np.float32]:
        """What each document shares with the query, float32 [documents, 5], columns `FEATURES`.

        BM25 (over the query's own largest possible sum of idf, so about 0 to 2); and the shares, weighted by idf, of
        the query's words that are in the document, in its first sentence, in its best sentence, and of the query's
        pairs of neighbouring words that are in the document.
        """
        asked = list(dict.fromkeys(words_of(query)))
        weights = {word: self.rarity(word) for word in asked}
        total = sum(weights.values()) or 1.0
        pairs = {pair: weights[pair[0]] + weights[pair[1]] for pair in _pairs(words_of(query))}
        of_pairs = sum(pairs.values()) or 1.0
        found = np.zeros((len(documents), len(FEATURES)), dtype=np.float32)
        for row, document in enumerate(documents):
            read = document if isinstance(document, Read) else Read.of(document)
            found[row, 0] = self._bm25(weights, read) / total
            found[row, 1] = sum(weight for word, weight in weights.items() if word in read.counts) / total
            shares = self._shares(weights, read)
            found[row, 2] = shares[0] / total if shares else 0.0
            found[row, 3] = max(shares) / total if shares else 0.0
            there = {pair for sentence in read.words for pair in _pairs(sentence)}
            found[row, 4] = sum(weight for pair, weight in pairs.items() if pair in there) / of_pairs
        return found

    def passage(self, query: str, document: str | Read, most: int) -> str:
        """At most about `most` words of the document: its first sentence, and those that share most with the query.

        Sentences keep their order. They are taken by the idf of the query's words that they have; ties go to the
        earlier one. The last one taken is cut off where it does not fit.
        """
        read = document if isinstance(document, Read) else Read.of(document)
        sizes = [sentence.count(" ") + 1 for sentence in read.sentences]
        if sum(sizes) <= most:
            return " ".join(read.sentences)
        shares = self._shares({word: self.rarity(word) for word in dict.fromkeys(words_of(query))}, read)
        taken, room = {0: sizes[0]}, most - sizes[0]  # place -> words
        for place in sorted(range(1, len(sizes)), key=lambda place: (-shares[place], place)):
            if room <= 0:
                break
            taken[place] = min(room, sizes[place])
            room -= sizes[place]
        return " ".join(" ".join(read.sentences[place].split(" ")[: taken[place]]) for place in sorted(taken))

    def write(self, path: Path) -> None:
        """Into `path` (`LEXICON_FILE` of a staging folder)."""
        np.savez_compressed(path, idf=self._idf, mean_length=np.float64(self._mean))

    @classmethod
    def read(cls, path: Path) -> Lexicon:
        """Of `path`. Raises `ModelError`."""
        try:
            with np.load(path, allow_pickle=False) as found:
                return cls(found["idf"].astype(np.float32), float(found["mean_length"]))
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{path}: not a usable lexicon ({error!r}); train the student anew.") from None

    def _bm25(self, weights: dict[str, float], read: Read) -> float:
        norm = K1 * (1 - B + B * read.length / self._mean)
        return sum(
            weight * read.counts[word] * (K1 + 1) / (read.counts[word] + norm)
            for word, weight in weights.items()
            if word in read.counts
        )

    def _shares(self, weights: dict[str, float], read: Read) -> list[float]:
        return [sum(weights.get(word, 0.0) for word in set(sentence)) for sentence in read.words]


def _bucket(word: str) -> int:
    return zlib.crc32(word.encode()) % BUCKETS


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    return list(pairwise(words))
