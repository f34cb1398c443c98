"""The words that query and documents share, and the passages that are read."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stillhouse.models.port import ModelError
from stillhouse.models.rerank_student import within_list
from stillhouse.models.rerank_text import BUCKETS, Lexicon, Read, words_of

DOCUMENTS = ["Red wine. Grapes grow in the sun.", "Blue paint dries.", "Red paint."]


def test_bm25_is_the_closed_form() -> None:
    lexicon = Lexicon.fit(DOCUMENTS)
    idf = {"red": math.log(1 + 1.5 / 2.5), "wine": math.log(1 + 2.5 / 1.5)}
    mean = (5 + 3 + 2) / 3
    expected = sum(w * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 5 / mean)) for w in idf.values()) / sum(idf.values())
    found = lexicon.features("red wine", DOCUMENTS)
    assert found[0, 0] == pytest.approx(expected, rel=1e-5)
    assert found[1].tolist() == [0.0] * 5
    assert found[2, 1] == pytest.approx(idf["red"] / sum(idf.values()), rel=1e-5)


def test_shares_of_sentences_and_pairs() -> None:
    found = Lexicon.fit(DOCUMENTS).features("grapes sun red wine", [DOCUMENTS[0]])[0]
    assert found[1] == pytest.approx(1.0)
    assert found[3] == pytest.approx(max(found[2], 1 - found[2]))
    assert 0 < found[4] < 1, "red wine is a pair of it, grapes sun is none"


def test_words_are_folded_without_plurals_and_stop_words() -> None:
    assert words_of("The Cells of an ass, in-vitro: glass") == ["cell", "ass", "vitro", "glass"]


def test_a_passage_is_the_first_sentence_and_the_ones_that_share_most_in_their_order() -> None:
    text = "A title here. Nothing to see. Grapes need sun. Nobody knows. Wine needs grapes and sun."
    lexicon = Lexicon.fit([text, "sun", "paint"])
    assert lexicon.passage("grapes and sun make wine", text, 8) == "A title here. Wine needs grapes and sun."
    assert (
        lexicon.passage("grapes and sun make wine", text, 10) == "A title here. Grapes need Wine needs grapes and sun."
    )
    assert lexicon.passage("grapes", text, 100) == text
    assert lexicon.passage("grapes", "x " * 50, 5) == ("x " * 50).strip(), "the first sentence is never cut"
    assert lexicon.passage("grapes", "", 5) == ""


def test_a_lexicon_comes_back_from_its_file(tmp_path) -> None:
    lexicon = Lexicon.fit(DOCUMENTS)
    lexicon.write(tmp_path / "lexicon.npz")
    again = Lexicon.read(tmp_path / "lexicon.npz")
    assert (again.features("red wine", DOCUMENTS) == lexicon.features("red wine", DOCUMENTS)).all()
    (tmp_path / "lexicon.npz").write_bytes(b"no")
    with pytest.raises(ModelError, match="not a usable lexicon"):
        Lexicon.read(tmp_path / "lexicon.npz")
    with pytest.raises(ModelError, match="there are none"):
        Lexicon.fit([])
    with pytest.raises(ModelError, match=f"{BUCKETS} entries"):
        Lexicon(np.zeros(3, dtype=np.float32), 1.0)


def test_features_stand_beside_what_they_are_within_their_list() -> None:
    table = within_list(np.array([[1.0, 5.0], [3.0, 5.0]], dtype=np.float32))
    assert table[:, :2].tolist() == [[1.0, 5.0], [3.0, 5.0]]
    assert table[:, 2] == pytest.approx([-1.0, 1.0], abs=0.01)
    assert table[:, 3].tolist() == [0.0, 0.0]


def test_reading_once_is_reading_twice() -> None:
    lexicon, read = Lexicon.fit(DOCUMENTS), [Read.of(text) for text in DOCUMENTS]
    assert (lexicon.features("red paint", read) == lexicon.features("red paint", DOCUMENTS)).all()
