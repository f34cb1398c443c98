"""The language of a text: named where it shows, unknown where nothing does."""

from __future__ import annotations

import pytest

from stillhouse.models.language import UNKNOWN, language_identifier


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("where is my order", "en"),
        ("wo ist mein Paket geblieben?", "de"),
        ("注文はどこですか", "ja"),
        ("", UNKNOWN),
        ("12345", UNKNOWN),
        ("ok", UNKNOWN),
    ],
)
def test_what_shows_is_named(text: str, language: str) -> None:
    assert language_identifier()(text) == language


def test_only_languages_that_may_come_are_thought_of() -> None:
    of = language_identifier(("en", "de"))
    assert of("where is my order") == "en"
    assert of("注文はどこですか") in ("en", "de", UNKNOWN)
    with pytest.raises(ValueError, match="xx"):
        language_identifier(("en", "xx"))
