"""A local reranker, teacher or student: an ONNX graph and a few weights on what query and document share in words.

`reranker.json` (`RerankSpec`) describes it. Graph contract, batch first:

- `cross_encoder`: `input_ids`, `attention_mask`, `token_type_ids` int64 [documents, n] -> `scores` float32 [documents];
  query and document each between [CLS] and [SEP], types 0 and 1;
- `bi_encoder`: `input_ids`, `attention_mask` int64 [1, n] -> `vector` float32 [1, width], of length 1.

A score is the graph's (of a bi-encoder: `similarity` times the cosine) plus `weights` times the lexical features, raw
and standardised within the list. A list is always answered alone, so it always answers the same, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stillhouse.models.confidence import LARGEST, Confidence
from stillhouse.models.features import MODEL_FILE, TOKENIZER_FILE, load_tokenizer, prepare
from stillhouse.models.port import ModelError
from stillhouse.models.rerank_request import RerankRequest, answer_of
from stillhouse.models.rerank_text import FEATURES, LEXICON_FILE, Lexicon, Read
from stillhouse.models.student import open_session, softmax

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPEC_FILE: Final = "reranker.json"
BATCH: Final = 8  # pairs of about the same length; larger batches are no faster on a core, and pad more
WORDS_PER_TOKEN: Final = 0.75  # of scientific English; what is picked too much is cut off by the tokenizer
MOST_KEPT: Final = 20_000  # vectors of documents: about 30 MB
SIGNALS: Final = 5


@dataclass(frozen=True, slots=True)
class RerankSpec:
    """What `reranker.json` holds. `weights` has two for each of `FEATURES`: of its value, and standardised."""

    student_id: str
    architecture: str
    max_tokens: int
    passages: bool = True  # documents are cut to the sentences that share words with the query
    similarity: float = 1.0
    weights: tuple[float, ...] = (0.0,) * (2 * len(FEATURES))
    confidence: Confidence = field(default_factory=Confidence)

    def write(self, folder: Path) -> None:
        """Into `folder`, a staging folder."""
        (folder / SPEC_FILE).write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> RerankSpec:
        """Of `folder`. Raises `ModelError` where it is missing or malformed."""
        path = folder / SPEC_FILE
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            spec = cls(
                student_id=str(raw["student_id"]),
                architecture=str(raw["architecture"]),
                max_tokens=int(raw["max_tokens"]),
                passages=bool(raw["passages"]),
                similarity=float(raw["similarity"]),
                weights=tuple(float(weight) for weight in raw["weights"]),
                confidence=Confidence.read(raw["confidence"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path}: not a usable description of a reranker ({error!r}); train it anew.") from None
        signals = len(spec.confidence.weights)
        if (
            spec.architecture not in ("cross_encoder", "bi_encoder")
            or len(spec.weights) != 2 * len(FEATURES)
            or (spec.confidence.kind == "learned" and signals != SIGNALS)
        ):
            raise ModelError(f"{path}: architecture, weights or confidence do not fit; train the reranker anew.")
        return spec


class OnnxReranker:
    """A reranker as it serves and as gates judge it. Blocking; belongs in a worker process or a job."""

    def __init__(self, folder: Path, *, keep: int = MOST_KEPT, redacts: bool = True) -> None:
        """Load the artefact in `folder` (verify it first). A bi-encoder keeps the vectors of `keep` documents.

        A student sees texts as the store keeps them (`redacts`), a teacher as they came. Raises `ModelError`.
        """
        self.spec = RerankSpec.read(folder)
        self._lexicon = Lexicon.read(folder / LEXICON_FILE)
        self._tokenizer = load_reranker_tokenizer(folder / TOKENIZER_FILE, self.spec.max_tokens)
        self._session = open_session(folder / MODEL_FILE)
        self._keep = keep
        self._prepare = prepare if redacts else str
        self._vectors: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    @property
    def student_id(self) -> str:
        """The reranker's id."""
        return self.spec.student_id

    def scores(self, query: str, documents: Sequence[str]) -> NDArray[np.float64]:
        """Log-odds of relevance float64 [documents]. Raises `ModelError`."""
        return self._scores(self._prepare(query), [self._prepare(document) for document in documents])[0]

    def predict_counted(self, text: str) -> tuple[str, float, dict[str, float], int]:
        """Ranking, confidence in [0, 1], score of each place, and tokens read, of an input. Raises `ModelError`."""
        try:
            asked = RerankRequest.of(text)
        except ValueError as error:
            raise ModelError(f"{self.student_id}: {error}.") from None
        found, tokens = self._scores(self._prepare(asked.query), [self._prepare(text) for text in asked.documents])
        output, distribution = answer_of(found.tolist())
        return output, self._confidence(found), distribution, tokens

    def predict_text(self, text: str) -> tuple[str, float, dict[str, float]]:
        """As `predict_counted`, without the tokens."""
        return self.predict_counted(text)[:3]

    def _confidence(self, scores: NDArray[np.float64]) -> float:
        if len(scores) == 1:
            return 1.0  # there is one order
        return self.spec.confidence.of(softmax(scores.astype(np.float32)), ranking_signals(scores))

    def _scores(self, query: str, documents: Sequence[str]) -> tuple[NDArray[np.float64], int]:
        read = [Read.of(document) for document in documents]
        table = within_list(self._lexicon.features(query, read)).astype(np.float64)
        lexical = table @ np.asarray(self.spec.weights, dtype=np.float64)
        try:
            if self.spec.architecture == "cross_encoder":
                graph, tokens = self._together(query, read_of(self.spec, self._lexicon, query, read))
            else:
                graph, tokens = self._apart(query, read_of(self.spec, self._lexicon, query, read))
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"Reranker {self.student_id} failed on a list ({str(error)[:200]}).") from None
        return graph * self.spec.similarity + lexical, tokens

    def _together(self, query: str, documents: Sequence[str]) -> tuple[NDArray[np.float64], int]:
        encodings = self._tokenizer.encode_batch([(query, document) for document in documents])
        lengths = np.array([len(encoding.ids) for encoding in encodings])
        scores = np.empty(len(encodings), dtype=np.float64)
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            inputs = {
                name: np.zeros((len(part), lengths[part].max()), dtype=np.int64)
                for name in ("input_ids", "attention_mask", "token_type_ids")
            }
            for row, place in enumerate(part):
                encoding, n = encodings[place], lengths[place]
                inputs["input_ids"][row, :n] = encoding.ids
                inputs["attention_mask"][row, :n] = 1
                inputs["token_type_ids"][row, :n] = encoding.type_ids
            scores[part] = self._session.run(["scores"], inputs)[0]
        return scores, int(lengths.sum())

    def _apart(self, query: str, documents: Sequence[str]) -> tuple[NDArray[np.float64], int]:
        asked, tokens = self._vector(query)
        scores = np.empty(len(documents), dtype=np.float64)
        for place, document in enumerate(documents):
            key = hashlib.blake2b(document.encode(), digest_size=16).digest()
            vector = self._vectors.get(key)
            if vector is None:
                vector, count = self._vector(document)
                tokens += count
                self._vectors[key] = vector
                if len(self._vectors) > self._keep:
                    self._vectors.popitem(last=False)
            else:
                self._vectors.move_to_end(key)
            scores[place] = float(asked @ vector)
        return scores, tokens

    def _vector(self, text: str) -> tuple[NDArray[np.float32], int]:
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        found = self._session.run(["vector"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        return np.asarray(found[0], dtype=np.float32), ids.shape[1]


def is_reranker(folder: Path) -> bool:
    """Whether the artefact in `folder` is a reranker."""
    return (folder / SPEC_FILE).exists()


def read_of(spec: RerankSpec, lexicon: Lexicon, query: str, documents: Sequence[Read]) -> list[str]:
    """What is read of each document: the sentences that share words with the query, or its beginning."""
    if not spec.passages:
        return [" ".join(document.sentences) for document in documents]
    beside = len(query.split()) if spec.architecture == "cross_encoder" else 0
    room = max(8, int((spec.max_tokens - 4) * WORDS_PER_TOKEN) - beside)
    return [lexicon.passage(query, document, room) for document in documents]


def load_reranker_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """A tokenizer of texts and of pairs, both of which begin with [CLS] and end with [SEP]. Raises `ModelError`."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(path, max_tokens)
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [CLS]:1 $B:1 [SEP]:1", special_tokens=marks
    )
    return tokenizer


def within_list(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features [documents, k] beside the same standardised over the list, float32 [documents, 2 k]."""
    centred = features - features.mean(axis=0)
    return np.concatenate([features, centred / (features.std(axis=0) + 1e-3)], axis=1).astype(np.float32)


def ranking_signals(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the learned confidence of a ranking looks at, float64 [5], of scores [documents], two or more.

    The best score, by how much it leads the second, the mean of the first four leads, the spread of the scores, and the
    logarithm of how many there are.
    """
    ordered = np.sort(np.clip(scores, -LARGEST, LARGEST))[::-1]
    leads = ordered[:-1] - ordered[1:]
    return np.array([ordered[0], leads[0], leads[:4].mean(), ordered.std(), math.log(len(ordered))])
