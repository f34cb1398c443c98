"""Always-escalate rules: phrases that only the teacher answers, whatever a student thinks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from stillhouse.tasks.teachers import EscalationRule

# What typing, copying and hiding put between and into words. Zero-width characters go, quotes become plain.
_PLAIN = {
    ord("\N{RIGHT SINGLE QUOTATION MARK}"): "'",
    ord("\N{LEFT SINGLE QUOTATION MARK}"): "'",
    ord("\N{LEFT DOUBLE QUOTATION MARK}"): '"',
    ord("\N{RIGHT DOUBLE QUOTATION MARK}"): '"',
    **dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff")),
}


class EscalationRules:
    """The rules of one task, compiled. `match` is quick enough for every request."""

    def __init__(self, rules: Sequence[EscalationRule]) -> None:
        """`rules` in the order of the task file; the first that matches decides."""
        self._rules = [(rule, [re.compile(pattern, re.IGNORECASE) for pattern in rule.patterns]) for rule in rules]

    def match(self, text: str) -> str | None:
        """Name of the first rule of which a pattern is found in `text`, or None."""
        rule = self.find(text)
        return rule.name if rule else None

    def find(self, text: str) -> EscalationRule | None:
        """As `match`, with the whole rule.

        Patterns see the text in NFKC, on one line, with single spaces, plain quotes and no invisible characters:
        `kill  myself` over two lines is the same phrase.
        """
        if not self._rules:
            return None
        plain = " ".join(unicodedata.normalize("NFKC", text).translate(_PLAIN).split())
        for rule, patterns in self._rules:
            if any(pattern.search(plain) for pattern in patterns):
                return rule
        return None
