"""A list to rank as an event's input, and its ranking as an answer."""

from __future__ import annotations

import pytest

from stillhouse.models.rerank_request import RerankRequest, answer_of, log_odds_of, order_of, scores_of

ASKED = RerankRequest(query="rød", documents=("a", "b"))


def test_the_same_request_is_the_same_text() -> None:
    assert ASKED.as_input() == '{"query":"rød","documents":["a","b"]}'
    assert RerankRequest.of(' {"documents": ["a", "b"], "query": "rød"}').as_input() == ASKED.as_input()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hello", "no request to rank documents: Invalid JSON"),
        ('{"query": "q"}', "documents: Field required"),
        ('{"query": "q", "documents": []}', "documents: Tuple should have at least 1 item"),
        ('{"query": "", "documents": ["a"]}', "query: String should have at least 1"),
        ('{"query": "q", "documents": ["a"], "top_n": 1}', "top_n: Extra inputs are not permitted"),
    ],
)
def test_what_is_no_request_gets_one_sentence(text, says) -> None:
    with pytest.raises(ValueError, match=says):
        RerankRequest.of(text)


def test_every_text_is_changed() -> None:
    assert ASKED.with_texts(str.upper) == RerankRequest(query="RØD", documents=("A", "B"))


def test_an_answer_is_the_order_with_a_score_each_and_gives_the_scores_back() -> None:
    output, distribution = answer_of([0.5, -2.0, 3.0, 0.5])
    assert output == "[2,0,3,1]"
    assert order_of(output, 4) == [2, 0, 3, 1]
    assert scores_of(distribution, 4) == pytest.approx([0.5, -2.0, 3.0, 0.5])
    assert [log_odds_of(1.0), log_odds_of(0.0)] == pytest.approx([15.0, -15.0])


@pytest.mark.parametrize("output", ["[0,1]", "[0,0,1]", "no", "{}", "[0,1,3]"])
def test_an_output_that_is_no_ranking_of_the_documents_is_refused(output) -> None:
    with pytest.raises(ValueError, match="not a ranking of 3 documents"):
        order_of(output, 3)


def test_a_document_without_a_score_is_named() -> None:
    with pytest.raises(ValueError, match="scores 1 of 2 documents; document 1 is new"):
        scores_of({"0": 0.5}, 2)
