"""What every comparator comes down to: a score in [0, 1], and whether it is enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Comparison:
    """Compares a student's answer with a teacher's."""

    score: Callable[[str, str], float]
    at_least: float = 1.0

    def same(self, student: str, teacher: str) -> bool:
        """Whether the two count as the same answer."""
        # Sums of fractions are not exact.
        return self.score(student, teacher) >= self.at_least - 1e-12
