"""How many more cases something takes: one search for all tests that forecast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_MAX_MORE: Final = 1_000_000


def fewest(enough: Callable[[int], bool], largest: int = _MAX_MORE) -> int:
    """The fewest n >= 1 for which `enough(n)` holds, `largest` at most; `enough` must not fall back once it holds."""
    high = 1
    while not enough(high):
        high *= 2
        if high >= largest:
            return largest
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high
