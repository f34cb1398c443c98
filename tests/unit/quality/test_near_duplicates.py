"""Near-duplicates: what is found, what is not, and that the index counts what a plain comparison counts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.quality.near_duplicates import LEAST_OVERLAP, NearDuplicates, _shingles

words = st.lists(st.sampled_from(["order", "my", "is", "where", "book", "refund", "late"]), min_size=1, max_size=12)


def test_case_punctuation_and_a_letter_more_are_no_difference() -> None:
    golden = NearDuplicates(["Where is the order that I placed last week?", "Delete my account", "ok"])
    assert golden.find("where is THE order, that i placed last week") == 0
    assert golden.find("Where is the order that I placed last weeks?") == 0
    assert golden.find("delete my account!!") == 1
    assert golden.find("OK.") == 2
    assert golden.find("Where is the parcel that I sent last month?") is None
    assert golden.find("") is None
    assert NearDuplicates([]).find("anything") is None


def test_personal_data_is_compared_as_it_is_stored() -> None:
    assert NearDuplicates(["mail me at ada@example.org about my order"]).find("mail me at <email> about my order") == 0


@given(st.lists(words, max_size=8), words)
@settings(max_examples=80, deadline=None)
def test_the_index_finds_what_comparing_with_each_finds(golden: list[list[str]], text: list[str]) -> None:
    texts, asked = [" ".join(one) for one in golden], " ".join(text)

    def overlap(other: str) -> float:
        a, b = _shingles(other), _shingles(asked)
        return len(a & b) / len(a | b)

    found = NearDuplicates(texts).find(asked)
    best = max(map(overlap, texts), default=0.0)
    assert (found is not None) == (best >= LEAST_OVERLAP)
    if found is not None:
        assert overlap(texts[found]) == best
