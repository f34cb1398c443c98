"""Comparators: whether a student and a teacher gave the same answer."""

from __future__ import annotations


def exact(a: str, b: str) -> bool:
    """Whether two labels are the same, character by character: labels are identifiers, so nothing is forgiven."""
    return a == b
