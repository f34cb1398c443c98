"""Spending one task's alpha over all the students that are ever judged for it."""

from __future__ import annotations


def alpha_share(alpha: float, k: int) -> float:
    """The share of `alpha` for the `k`-th student judged, k = 1, 2, ...: alpha / (k (k + 1)).

    The shares sum to `alpha` over all k (telescoping series), so by the union bound the chance that any bad student
    is ever passed, over a ladder of candidates and all retrains, is at most `alpha`. ValueError for k < 1 or an
    alpha outside (0, 1).
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha}; give a probability between 0 and 1")
    if k < 1:
        raise ValueError(f"k is {k}; the first student judged has k = 1")
    return alpha / (k * (k + 1))
