"""From text to model input, the same code in training and in serving.

A student is described by `StudentSpec` (its `student.json`); `Featuriser` turns one text into the arrays that its ONNX
graph takes. Graph contract, batch first, batch always 1 in serving:

- `inputs = "hashed_ngrams"`: `features` int64 [1, n], ids in [1, buckets), 0 is padding and embeds to nothing;
- `inputs = "token_ids"`: `features` int64 [1, n], token ids without marks of beginning and end, 0 is padding;
- `inputs = "tokens"`: `input_ids` int64 [1, n] and `attention_mask` int64 [1, n];
- `inputs = "joint"`: the three of both;
- output: `logits` float32 [1, labels], and with tokens `pooled` float32 [1, width], the sentence vector.
"""

from __future__ import annotations

import json
import re
import unicodedata
import zlib
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stillhouse.models.confidence import Confidence
from stillhouse.models.port import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPEC_FILE = "student.json"
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
CENTROIDS_FILE = "centroids.npy"
PADDING = 0

Inputs = Literal["hashed_ngrams", "token_ids", "tokens", "joint"]

_WORDS = re.compile(r"\w+|[^\w\s]")
_WORDS_KEPT: Final = 1 << 13  # whose character n-grams are remembered: most words of any traffic, some 15 MB
_LONGEST_KEPT: Final = 32  # characters; what is longer is seldom a word, and seldom comes again


@dataclass(frozen=True, slots=True)
class Ngrams:
    """Which n-grams are hashed: word n-grams and character n-grams inside words, both ends included."""

    word: tuple[int, int] = (1, 2)
    char: tuple[int, int] = (3, 5)


@dataclass(frozen=True, slots=True)
class StudentSpec:
    """What `student.json` holds: everything that serving must know besides the weights.

    `temperature` divides the logits (calibration, not distillation); `max_length` is the largest number of features or
    tokens of one text, `max_features` of features where it has both; `buckets`, `hash_seed` and `ngram` matter to
    hashed n-grams only.
    """

    student_id: str
    architecture: str
    labels: tuple[str, ...]
    inputs: Inputs
    temperature: float = 1.0
    max_length: int = 128
    max_features: int = 1024
    buckets: int = 1 << 17
    hash_seed: int = 0
    ngram: Ngrams = field(default_factory=Ngrams)
    confidence: Confidence = field(default_factory=Confidence)

    def write(self, folder: Path) -> None:
        """Write `student.json` into `folder` (a staging folder: the rename of the folder makes it atomic)."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False)
        (folder / SPEC_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> StudentSpec:
        """Read `student.json` from `folder`. Raises `ModelError` where it is missing or malformed."""
        path = folder / SPEC_FILE
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            ngram = raw.get("ngram") or {}
            spec = cls(
                student_id=str(raw["student_id"]),
                architecture=str(raw["architecture"]),
                labels=tuple(str(label) for label in raw["labels"]),
                inputs=raw["inputs"],
                temperature=float(raw["temperature"]),
                max_length=int(raw["max_length"]),
                max_features=int(raw.get("max_features", 1024)),
                buckets=int(raw.get("buckets", 1 << 17)),
                hash_seed=int(raw.get("hash_seed", 0)),
                ngram=Ngrams(_pair(ngram.get("word", (1, 2))), _pair(ngram.get("char", (3, 5)))),
                confidence=Confidence.read(raw.get("confidence") or {}),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path}: not a usable student description ({error!r}); train the student anew.") from None
        if spec.inputs not in get_args(Inputs) or spec.temperature <= 0 or len(spec.labels) < 2:
            raise ModelError(f"{path}: inputs, temperature or labels are out of range; train the student anew.")
        return spec

    @property
    def has_vectors(self) -> bool:
        """Whether the graph gives a sentence vector beside the logits."""
        return self.inputs in ("tokens", "joint")


def prepare(text: str) -> str:
    """The text that students see: redacted as the observer redacts what it stores, so serving equals training."""
    from stillhouse.store.redaction import redact

    return redact(text).text


def hashed_features(
    text: str, buckets: int, max_features: int, *, hash_seed: int = 0, ngram: Ngrams | None = None
) -> NDArray[np.int64]:
    """Hashed n-grams of one text, int64 [n], 1 <= n <= `max_features`, ids in [1, buckets), each at most once.

    The text is NFKC-normalised and case-folded. Words come first, then their pairs, then character n-grams of each word
    with `<` and `>` at its ends (as fastText does, Bojanowski et al. 1607.04606), so truncation takes characters first.
    CRC-32 is the hash: fast, the same on every machine, and even over the buckets. An empty text gives one padding id.
    """
    ngram = ngram or Ngrams()
    words = _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())
    ids: dict[int, None] = {}
    crc32, span = zlib.crc32, buckets - 1
    for n in range(ngram.word[0], ngram.word[1] + 1):
        for i in range(len(words) - n + 1):
            ids[crc32(" ".join(words[i : i + n]).encode(), hash_seed) % span + 1] = None
        if len(ids) >= max_features:
            break
    for word in dict.fromkeys(words):
        if len(ids) >= max_features:
            break
        of = _of_characters if len(word) <= _LONGEST_KEPT else _of_characters.__wrapped__
        ids.update(of(word, span, hash_seed, ngram.char))
    if not ids:
        return np.array([PADDING], dtype=np.int64)
    return np.fromiter(ids, dtype=np.int64, count=len(ids))[:max_features]


@lru_cache(maxsize=_WORDS_KEPT)
def _of_characters(word: str, span: int, hash_seed: int, lengths: tuple[int, int]) -> dict[int, None]:
    """The ids of a word's character n-grams, in order. Words come again and again, so they are remembered."""
    marked = f"<{word}>"
    # The prefix keeps character n-grams apart from words that are spelled the same.
    return {
        zlib.crc32(f"#{marked[i : i + n]}".encode(), hash_seed) % span + 1: None
        for n in range(lengths[0], lengths[1] + 1)
        for i in range(len(marked) - n + 1)
    }


def load_tokenizer(path: Path, max_length: int) -> Tokenizer:
    """A `tokenizers` tokenizer that truncates to `max_length` tokens and never pads. Raises `ModelError`."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{path}: not a usable tokenizer ({error}); write the artefact anew.") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


class Featuriser:
    """Turns one text into the inputs of a student's ONNX graph."""

    def __init__(self, spec: StudentSpec, tokenizer_path: Path | None = None) -> None:
        """`tokenizer_path` is needed for all `spec.inputs` but `hashed_ngrams`. Raises `ModelError`."""
        self._spec = spec
        self._tokenizer: Tokenizer | None = None
        if spec.inputs != "hashed_ngrams":
            if tokenizer_path is None:
                raise ModelError(f"Student {spec.student_id} reads tokens but has no {TOKENIZER_FILE}; train it anew.")
            self._tokenizer = load_tokenizer(tokenizer_path, spec.max_length)

    def ids(self, prepared: str) -> NDArray[np.int64]:
        """Token ids, or feature ids where there are no tokens, int64 [n], of a text that `prepare` has been through."""
        if self._tokenizer is None:
            return self._features(prepared, self._spec.max_length)
        if self._spec.has_vectors:
            return np.array(self._tokenizer.encode(prepared).ids, dtype=np.int64)
        # Static vectors know no marks of beginning and end.
        return np.array(self._tokenizer.encode(prepared, add_special_tokens=False).ids or [PADDING], dtype=np.int64)

    def inputs(self, prepared: str) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs by name, each int64 [1, n]."""
        ids = self.ids(prepared)[np.newaxis, :]
        if not self._spec.has_vectors:
            return {"features": ids}
        tokens = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if self._spec.inputs == "tokens":
            return tokens
        return {"features": self._features(prepared, self._spec.max_features)[np.newaxis, :], **tokens}

    def _features(self, prepared: str, most: int) -> NDArray[np.int64]:
        spec = self._spec
        return hashed_features(prepared, spec.buckets, most, hash_seed=spec.hash_seed, ngram=spec.ngram)


def _pair(value: Any) -> tuple[int, int]:
    low, high = value
    return int(low), int(high)
