"""What rerankers learn from: lists of documents for a query, with a teacher's scores, judged relevance, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stillhouse.models.port import ModelError


@dataclass(frozen=True, slots=True)
class RankedList:
    """A query and its documents; `teacher` holds log-odds of relevance, `relevance` grades >= 0, one a document."""

    query: str
    documents: tuple[str, ...]
    teacher: tuple[float, ...] | None = None
    relevance: tuple[float, ...] | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Raises `ModelError` where scores and documents are not of one number."""
        for name, values in (("the teacher's scores", self.teacher), ("relevance", self.relevance)):
            if values is not None and len(values) != len(self.documents):
                raise ModelError(f"A list has {len(self.documents)} documents, and {name} are {len(values)}.")
        if len(self.documents) < 1:
            raise ModelError("A list needs documents; this one has none.")

    def keeping(self, places: Sequence[int]) -> RankedList:
        """The list with the documents at `places` alone."""
        return replace(
            self,
            documents=tuple(self.documents[i] for i in places),
            teacher=None if self.teacher is None else tuple(self.teacher[i] for i in places),
            relevance=None if self.relevance is None else tuple(self.relevance[i] for i in places),
        )


Score = Callable[[str, Sequence[str]], Sequence[float]]


def with_hard_negatives(lists: Sequence[RankedList], documents: int, score: Score | None = None) -> list[RankedList]:
    """Each list cut to `documents`: what is relevant, and of the others those that are the easiest to confuse with it.

    How hard a document is, `score` says (a bi-encoder, the lexicon, an earlier student); without it the teacher's own
    scores do. Lists without relevance keep the teacher's best and, of the rest, the hardest: a student's mistakes are
    made among them. What an index or an earlier student confuses teaches most (of BM25: Karpukhin et al. 2004.04906; of
    the student itself: Xiong et al. 2007.00808). Documents keep their order. Raises `ModelError` where nothing says
    what is hard.

    Example:
        >>> made = RankedList("q", ("a", "b", "c"), teacher=(2.0, -3.0, 1.0), relevance=(1.0, 0.0, 0.0))
        >>> with_hard_negatives([made], 2)[0].documents
        ('a', 'c')
    """
    cut = []
    for one in lists:
        if len(one.documents) <= documents:
            cut.append(one)
            continue
        if score is None and one.teacher is None:
            raise ModelError("Hard negatives are found by a score or by the teacher's; this list has neither.")
        hard = np.asarray(one.teacher if score is None else score(one.query, one.documents), dtype=np.float64)
        wanted = np.asarray(one.relevance if one.relevance is not None else one.teacher, dtype=np.float64)
        first = [int(wanted.argmax())] if one.relevance is None else np.flatnonzero(wanted > 0).tolist()
        rest = [place for place in np.argsort(-hard, kind="stable").tolist() if place not in first]
        cut.append(one.keeping(sorted((first + rest)[:documents])))
    return cut
