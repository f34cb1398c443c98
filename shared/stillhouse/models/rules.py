"""Phrases that only the teacher may answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stillhouse.tasks import EscalationRule


class EscalationRules:
    """A task's always-escalate rules; the first that matches names the reason."""

    def __init__(self, rules: Sequence[EscalationRule]) -> None:
        self._rules = [(rule, [re.compile(pattern, re.IGNORECASE) for pattern in rule.patterns]) for rule in rules]

    def match(self, text: str) -> EscalationRule | None:
        """The first rule with a pattern found in `text`."""
        return next((rule for rule, patterns in self._rules if any(p.search(text) for p in patterns)), None)
