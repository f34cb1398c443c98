"""What an answer states is looked up in what it was given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.quality.grounding import Catalogue, claims, ungrounded

GIVEN = (
    "Hotel Astoria on Main Street has twelve rooms from $1,250.50, opens at 9:30 and is booked by Lovelace, Ada. "
    "Reference A-1234, mail desk@astoria.example.",
)


@pytest.mark.parametrize(
    ("answer", "without_ground"),
    [
        ("The Astoria has 12 rooms.", []),
        ("The Astoria has 13 rooms.", ["13"]),
        ("Rooms start at 1250.5 dollars, on the 12th floor.", []),
        ("It costs $1,250 at the Grand Plaza.", ["1,250", "Grand Plaza"]),
        ("Your reference is A-1234.", []),
        ("Your reference is A-1235.", ["A-1235"]),
        ("Write to desk@astoria.example or www.astoria.example.", ["www.astoria.example"]),
        ('It was booked by "Ada Lovelace".', []),
        ("I booked it for Ada. Sorry, no rooms are left. Please call again.", []),
        ("It was booked by Charles Babbage's office.", ["Charles Babbage's"]),
        ("", []),
        ("- Rooms: twelve\n- Street: main", []),
    ],
)
def test_claims_are_looked_up(answer: str, without_ground: list[str]) -> None:
    assert ungrounded(answer, GIVEN) == without_ground


def test_a_catalogue_gives_ground_without_context(tmp_path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("Grand Plaza\nBerserk, vol. 41\n")
    catalogue = Catalogue.read(path)
    assert ungrounded("We have Berserk 41 at the Grand Plaza.", (), catalogue) == []
    assert ungrounded("We have Berserk 42 at the Grand Plaza.", (), catalogue) == ["42"]
    with pytest.raises(ValueError, match="cannot be read"):
        Catalogue.read(tmp_path / "none.txt")


@given(st.text(max_size=200))
def test_a_text_has_ground_in_itself(text: str) -> None:
    assert ungrounded(text, (text,)) == []


@given(st.text(max_size=80), st.text(max_size=80))
def test_more_sources_never_take_ground_away(answer: str, source: str) -> None:
    assert set(ungrounded(answer, (*GIVEN, source))) <= set(ungrounded(answer, GIVEN))
    assert len(set(claims(answer))) == len(claims(answer))
