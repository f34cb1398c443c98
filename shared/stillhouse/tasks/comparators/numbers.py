"""Numbers, within a tolerance."""

from __future__ import annotations

from stillhouse.tasks.comparators.settings import Numeric


def number_score(settings: Numeric, student: str, teacher: str) -> float:
    """1 where the numbers are equal within either tolerance; what is no number is compared as text."""
    if student.strip() == teacher.strip():
        return 1.0
    try:
        ours, theirs = float(student), float(teacher)
    except ValueError:
        return 0.0
    return float(abs(ours - theirs) <= max(settings.absolute, settings.relative * abs(theirs)))
