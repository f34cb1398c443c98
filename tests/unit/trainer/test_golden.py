"""What people reviewed for the examination is no lesson."""

from __future__ import annotations

from services.trainer.dataset import without_golden


def test_golden_texts_and_their_near_duplicates_are_left_out() -> None:
    rows = [{"input": text} for text in ("Cancel my order, please!", "cancel my orders please", "where is my parcel")]
    assert without_golden(rows, ["cancel my order please"]) == [rows[2]]
    assert without_golden(rows, []) is rows
