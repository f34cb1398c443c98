"""Personal data goes, everything else stays, and doing it twice changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.store.redaction import input_hash, normalise, redact


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("write to jo.doe+x@mail.example.org now", "write to <email> now"),
        ("card 4111 1111 1111 1111", "card <card>"),
        ("tracking 4111 1111 1111 1112", "tracking 4111 1111 1111 1112"),
        ("call +49 170 1234567", "call <phone>"),
        ("order 12345678", "order 12345678"),
        ("from 10.0.0.1", "from <ip>"),
        ("to DE89 3704 0044 0532 0130 00", "to <iban>"),
        ("volume 3 of 27", "volume 3 of 27"),
    ],
)
def test_rules(text, redacted) -> None:
    assert redact(text).text == redacted


@given(st.text(alphabet=st.sampled_from("ab1 0@.+-<>()DE4"), max_size=60))
def test_idempotent(text) -> None:
    once = redact(text)
    assert redact(once.text).text == once.text


def test_the_hash_sees_through_case_punctuation_and_personal_data() -> None:
    assert input_hash("Hi, call +49 170 1234567!") == input_hash("hi call +49 170 7654321")
    assert normalise("  Où  est-ce?") == "où est ce"
