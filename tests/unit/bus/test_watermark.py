"""The commit logic of the router: never past an unfinished record, and never behind for good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.bus import LowWaterMark


@given(st.lists(st.integers(0, 10_000), unique=True, min_size=1), st.randoms())
def test_the_mark_never_passes_an_unfinished_record_and_ends_behind_the_last(offsets, random) -> None:
    offsets = sorted(offsets)
    mark = LowWaterMark()
    for offset in offsets:
        mark.begin(offset)
    open_ = set(offsets)
    for offset in random.sample(offsets, len(offsets)):
        mark.end(offset)
        open_.discard(offset)
        assert mark.position is None or all(mark.position <= other for other in open_)
    assert mark.position == offsets[-1] + 1
    assert mark.in_flight == 0


def test_misuse_is_refused() -> None:
    mark = LowWaterMark()
    mark.begin(5)
    with pytest.raises(ValueError, match="out of order"):
        mark.begin(5)
    with pytest.raises(KeyError):
        mark.end(6)
