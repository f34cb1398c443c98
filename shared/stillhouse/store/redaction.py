"""Personal data is taken out of texts by rule before they are kept, and before a student reads them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Final

_DIGIT_RUN: Final = re.compile(r"(?<![\w<])\+?\d(?:[ ().-]{0,2}\d){7,18}(?!\w)")
_RULES: Final = (
    ("email", re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")),
    ("iban", re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")),
    ("ip", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")),
)


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without personal data, and which kinds were taken out (sorted, without repeats)."""

    text: str
    marks: tuple[str, ...]


def redact(text: str) -> Redacted:
    """Replace e-mail addresses, IBANs, IP addresses, card and phone numbers by `<kind>`. Idempotent."""
    marks: set[str] = set()
    for kind, pattern in _RULES:
        text, count = pattern.subn(f"<{kind}>", text)
        if count:
            marks.add(kind)

    def number(match: re.Match[str]) -> str:
        digits = re.sub(r"\D", "", match.group())
        if match.group().startswith("+") and len(digits) <= 15:  # E.164
            marks.add("phone")
            return "<phone>"
        if len(digits) >= 12:
            # Order and tracking numbers are long too; only what passes Luhn's check is a card.
            if not (len(digits) <= 19 and _luhn(digits)):
                return match.group()
            marks.add("card")
            return "<card>"
        # A bare run of digits is an order number; a phone number has a plus, a leading 0 or separators.
        if match.group().isdigit() and not digits.startswith("0"):
            return match.group()
        marks.add("phone")
        return "<phone>"

    return Redacted(_DIGIT_RUN.sub(number, text), tuple(sorted(marks)))


def normalise(text: str) -> str:
    """Case, punctuation and spacing removed: equal for texts that differ in nothing else."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"[^\W_]+", folded))


def input_hash(text: str) -> str:
    """sha256 (hex) of the redacted, normalised text: the group that a text belongs to."""
    return hashlib.sha256(normalise(redact(text).text).encode()).hexdigest()


def stored_group(group: str) -> str:
    """A group as the store keeps it. It is only ever compared: one that is somebody's address or number is hashed."""
    if not redact(group).marks:
        return group
    return hashlib.sha256(group.encode()).hexdigest()[:32]


def _luhn(digits: str) -> bool:
    """The check digit of ISO/IEC 7812-1."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
