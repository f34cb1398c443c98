"""What students read of a text: the ids are fixed for ever, because artefacts hold vectors of them."""

from __future__ import annotations

import random
import re
import unicodedata
import zlib

import numpy as np
import pytest

from stillhouse.distill.cut_encoder import encoder_source
from stillhouse.models import features
from stillhouse.models.features import TOKENIZER_FILE, Featuriser, Ngrams, StudentSpec, hashed_features
from stillhouse.models.port import ModelError

PIECES = ["refund", "my", "Straße", "日本語", "<b>", "!!", "x" * 50, "o'clock", "ﬁne", "42", "\u0000", "  ", "re-fund"]


def as_defined(text, buckets, most, seed, ngram) -> list[int]:
    """The definition of `hashed_features`, word for word, without any memory."""
    words = re.findall(r"\w+|[^\w\s]", unicodedata.normalize("NFKC", text).casefold())
    ids: dict[int, None] = {}

    def add(part: str) -> None:
        ids[zlib.crc32(part.encode(), seed) % (buckets - 1) + 1] = None

    for n in range(ngram.word[0], ngram.word[1] + 1):
        for i in range(len(words) - n + 1):
            add(" ".join(words[i : i + n]))
        if len(ids) >= most:
            break
    for word in dict.fromkeys(words):
        if len(ids) >= most:
            break
        for n in range(ngram.char[0], ngram.char[1] + 1):
            for i in range(len(word) + 2 - n + 1):
                add("#" + f"<{word}>"[i : i + n])
    return list(ids)[:most] or [0]


@pytest.mark.parametrize(("buckets", "most", "seed"), [(1 << 17, 1024, 0), (1 << 10, 1024, 7), (1 << 12, 9, 0)])
def test_hashed_features_are_as_defined_whatever_is_remembered(buckets, most, seed) -> None:
    drawn = random.Random(0)
    ngram = Ngrams((1, 2), (2, 4)) if seed else Ngrams()
    for _ in range(300):
        text = " ".join(drawn.choices(PIECES, k=drawn.randint(0, 12)))
        found = hashed_features(text, buckets, most, hash_seed=seed, ngram=ngram)
        assert found.dtype == np.int64
        assert found.tolist() == as_defined(text, buckets, most, seed, ngram)


def test_long_words_are_not_remembered() -> None:
    features._of_characters.cache_clear()
    hashed_features("y" * 5000, 1 << 17, 1024)
    hashed_features("short", 1 << 17, 1024)
    assert features._of_characters.cache_info().currsize == 1


def spec(inputs, most=512) -> StudentSpec:
    return StudentSpec("s", "a", ("x", "y"), inputs, max_length=most, max_features=8, buckets=1 << 12)


def test_static_students_read_tokens_without_marks() -> None:
    path = encoder_source() / TOKENIZER_FILE
    whole = Featuriser(spec("tokens"), path).ids("refund my order").tolist()
    alone = Featuriser(spec("token_ids"), path)
    assert alone.ids("refund my order").tolist() == whole[1:-1]
    assert Featuriser(spec("token_ids", most=2), path).ids("refund my order").tolist() == whole[1:3]
    assert {name: value.tolist() for name, value in alone.inputs("order").items()} == {"features": [[whole[-2]]]}
    assert alone.ids("").tolist() == [0]


def test_a_student_of_tokens_without_its_tokenizer_is_refused() -> None:
    with pytest.raises(ModelError, match="tokenizer"):
        Featuriser(spec("token_ids"), None)
