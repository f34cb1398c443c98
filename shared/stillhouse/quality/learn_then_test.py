"""Learn-then-Test (Angelopoulos et al. 2021, arXiv 2110.01052): certify rules with more than one threshold.

Each rule (served where confidence >= t and novelty <= u, a threshold for each group, ...) is a hypothesis "its risk is
above epsilon" with an exact binomial p-value. The chance that any rule is certified whose risk is above epsilon is at
most delta: by Holm's step-down over all of them, or by walking them in an order that was fixed on other cases.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr

Family = Literal["fixed_sequence", "holm"]


def p_values(losses: ArrayLike, trials: ArrayLike, epsilon: float) -> NDArray[np.float64]:
    """P(so few losses or fewer | the rate of losses is epsilon), float64 [rules]; without trials 1."""
    lost, tried = np.asarray(losses, dtype=np.int64), np.asarray(trials, dtype=np.int64)
    if lost.shape != tried.shape or (lost > tried).any() or (lost < 0).any():
        raise ValueError("losses and trials must be counts of one shape, losses no more than trials")
    found = np.where(tried > 0, bdtr(lost, np.maximum(tried, 1), epsilon), 1.0)
    return np.asarray(np.where(lost == tried, 1.0, found), dtype=np.float64)


def rejected(p: ArrayLike, delta: float, family: Family) -> NDArray[np.bool_]:
    """Which hypotheses are rejected so that any true one is with probability `delta` at most, bool [rules].

    `fixed_sequence`: in the order given, each at `delta`, until the first that is not. `holm`: in order of size, the
    i-th smallest of m at delta / (m - i + 1), until the first that is not (Holm 1979).
    """
    values = np.asarray(p, dtype=np.float64)
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta is {delta}; give a probability between 0 and 1")
    if family == "fixed_sequence":
        return np.logical_and.accumulate(values <= delta)
    order = np.argsort(values, kind="stable")
    levels = delta / np.arange(values.size, 0, -1)
    marks = np.zeros(values.size, dtype=bool)
    marks[order] = np.logical_and.accumulate(values[order] <= levels)
    return marks


def certify_rules(
    served: ArrayLike,
    agrees: ArrayLike,
    epsilon: float,
    delta: float,
    *,
    family: Family = "fixed_sequence",
    selective: bool = False,
) -> NDArray[np.bool_]:
    """Which rules keep the promise, bool [rules]; any of them may be used, also the one that serves most.

    `served` bool [rules, n] says which cases each rule serves, `agrees` bool [n]. The rules, and for `fixed_sequence`
    their order, must not have been chosen on these cases. With `selective` the risk is among the served. ValueError for
    arrays that do not match, or epsilon or delta outside (0, 1).
    """
    table, agreed = np.atleast_2d(np.asarray(served, dtype=bool)), np.asarray(agrees, dtype=bool)
    if table.shape[1:] != agreed.shape:
        raise ValueError(f"served {table.shape} and agrees {agreed.shape} must have the same cases")
    if not 0.0 < epsilon < 1.0:
        raise ValueError(f"epsilon is {epsilon}; give a rate between 0 and 1")
    losses = (table & ~agreed).sum(axis=1)
    trials = table.sum(axis=1) if selective else np.full(len(table), agreed.size)
    return rejected(p_values(losses, trials, epsilon), delta, family)


def two_thresholds(
    confidence: ArrayLike, other: ArrayLike, grid: ArrayLike, other_grid: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Every pair of thresholds, float64 [rules, 2], and what it serves, bool [rules, n], strict to loose.

    A case is served where its confidence is at least the first threshold and its other number (length, novelty) at most
    the second. Strict to loose by the sum of the two's places in their grids, so that a fixed sequence loosens both.
    """
    scores, others = np.asarray(confidence, dtype=np.float64), np.asarray(other, dtype=np.float64)
    first = np.unique(np.asarray(grid, dtype=np.float64))[::-1]
    second = np.unique(np.asarray(other_grid, dtype=np.float64))
    places = [(i, j) for i in range(first.size) for j in range(second.size)]
    places.sort(key=lambda place: (place[0] / first.size + place[1] / second.size, place))
    pairs = np.array([(first[i], second[j]) for i, j in places])
    served = (scores[None, :] >= pairs[:, :1]) & (others[None, :] <= pairs[:, 1:])
    return pairs, served
