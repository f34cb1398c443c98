"""Which documents of a list teach."""

from __future__ import annotations

import pytest

from stillhouse.distill.rerankers.export import in_order
from stillhouse.distill.rerankers.lists import RankedList, with_hard_negatives
from stillhouse.models.port import ModelError

ONE = RankedList("q", ("a", "b", "c", "d", "e"), (-1.0, 3.0, 2.0, 5.0, 0.0), (1.0, 0.0, 0.0, 0.0, 2.0))


def test_what_is_relevant_stays_and_of_the_rest_what_the_teacher_likes_most() -> None:
    [cut] = with_hard_negatives([ONE], 3)
    assert (cut.documents, cut.teacher, cut.relevance) == (("a", "d", "e"), (-1.0, 5.0, 0.0), (1.0, 0.0, 2.0))


def test_a_score_of_ones_own_finds_what_it_confuses() -> None:
    [cut] = with_hard_negatives([ONE], 3, lambda query, documents: [float(text == "c") for text in documents])
    assert cut.documents == ("a", "c", "e")


def test_without_relevance_the_teachers_first_places_stay() -> None:
    [cut] = with_hard_negatives([RankedList("q", ONE.documents, ONE.teacher)], 2)
    assert cut.documents == ("b", "d")


def test_short_lists_stay_whole() -> None:
    assert with_hard_negatives([ONE], 5) == [ONE]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="5 documents, and relevance are 1"):
        RankedList("q", ONE.documents, relevance=(1.0,))
    with pytest.raises(ModelError, match="needs documents"):
        RankedList("q", ())
    with pytest.raises(ModelError, match="has neither"):
        with_hard_negatives([RankedList("q", ONE.documents, relevance=ONE.relevance)], 2)


def test_pairs_in_order_are_those_that_the_teacher_orders() -> None:
    import numpy as np

    assert in_order(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 2.0])) == 1.0
    assert in_order(np.array([1.0, 1.0]), np.array([1.0, 2.0])) == 0.0
    assert in_order(np.array([1.0]), np.array([1.0])) == 1.0
