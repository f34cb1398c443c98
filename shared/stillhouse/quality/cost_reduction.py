"""What a student saves where every case has its own cost: the ratio of two means, with bounds at every look.

"At least the share r is saved" says that (1 - r) teacher - student is above 0 on average, which is the mean of bounded
values and can be bet on (`stillhouse.quality.betting`). The r that are beyond doubt all lie below one number: the lower
bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stillhouse.quality.betting import log_capital


def reduction(pairs: Sequence[tuple[float, float]], largest: float, alpha: float) -> tuple[float | None, float, float]:
    """(estimate, lower, upper) of 1 - E[student] / E[teacher] over `pairs` (student's cost, teacher's cost).

    Each bound is ever wrong with probability `alpha` at most. Costs lie in [0, `largest`]. Without cases (None, -1, 1);
    a student that costs more than twice the teacher is not told from one that costs twice as much.
    """
    if not pairs:
        return None, -1.0, 1.0
    student, teacher = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))

    def saves(r: float) -> bool:
        return _above_zero((1 - r) * teacher - student, -largest, (1 - r) * largest, 1 - alpha)

    def costs(q: float) -> bool:
        return q <= 0 or _above_zero(student - q * teacher, -q * largest, largest, 1 - alpha)

    total = float(teacher.sum())
    estimate = 1.0 - float(student.sum()) / total if total > 0 else None
    return estimate, _edge(saves, -1.0, 1.0), 1.0 - _edge(costs, 0.0, 2.0)


def _above_zero(gain: NDArray[np.float64], low: float, high: float, confidence: float) -> bool:
    """Whether the mean of values in [low, high] is above 0 beyond doubt."""
    unit = (gain - low) / (high - low)
    return log_capital(unit, np.ones(unit.size), -low / (high - low)) >= -math.log1p(-confidence)


def _edge(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where `holds`, which is true below some value, ceases to; `low` where it holds nowhere."""
    for _ in range(25):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
