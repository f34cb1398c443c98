"""The confidence from which a student may serve: chosen on one set of cases, certified on another or by a fixed walk.

A case is served where confidence >= t. The overall risk of t is the share of *all* cases that are served and disagree;
the selective risk is the share among those served. Promises are on the overall risk unless their name says selective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillhouse.quality.binomial import clopper_pearson_uppers

SERVE_NOTHING: Final = 1.01
"""A threshold above every confidence."""
WALK: Final = 100  # steps of a walk


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold and what was seen at it: share served, risk (overall, or selective where asked), cases looked at."""

    value: float
    coverage: float
    risk: float
    n: int


def default_grid() -> NDArray[np.float64]:
    """Thresholds from 0 to 1, ascending, shape (119,): steps of 0.01, and ever finer ones above 0.99.

    It does not depend on data, which is what makes the fixed walk of `certify_fixed` valid; it is finer near 1 because
    that is where the confidences of a trained classifier crowd.
    """
    return np.concatenate(
        [np.arange(99) / 100, np.arange(990, 999) / 1000, np.arange(9990, 10_000) / 10_000, np.ones(1)]
    )


def walk_of(
    confidence: ArrayLike, agrees: ArrayLike, n: int, delta: float, *, selective: bool = False, steps: int = WALK
) -> NDArray[np.float64]:
    """A grid for `certify_fixed`, shape (<= `steps`,), from *other* cases than those that it will be walked on.

    Its thresholds serve equally many more of the other cases at each step. A selective walk begins where a bound over
    `n` cases may be expected to be smallest: stricter thresholds serve too few cases to show anything, and the walk
    would end at the first. ValueError for arrays that do not match or are empty.
    """
    table = _Table.of(confidence, agrees, np.unique(np.asarray(confidence, dtype=np.float64)))
    served = table.served / table.n
    first = 0
    if selective:
        # As many cases, and losses in the same proportion and one more: rates near 0 are not to be believed.
        starts = np.unique(_places(served, 0, steps))
        trials = np.maximum(np.round(served[starts] * n), 1).astype(np.int64)
        losses = np.minimum(np.ceil((table.losses[starts] + 1) / table.n * n).astype(np.int64), trials)
        first = int(starts[np.argmin(clopper_pearson_uppers(losses, trials, delta))])
    # The loosest one serves every case, not only those more confident than the least confident seen so far.
    return np.unique(np.append(table.grid[_places(served, first, steps)], 0.0))


def _places(served: NDArray[np.float64], first: int, steps: int) -> NDArray[np.int64]:
    """Places in `served`, which rises, from `first` to the end, at equal steps of its value."""
    wanted = np.linspace(served[first], 1.0, steps)
    return np.searchsorted(served, wanted, side="left").clip(first, served.size - 1)


def choose_threshold(
    confidence: ArrayLike,
    agrees: ArrayLike,
    epsilon: float,
    grid: ArrayLike | None = None,
    *,
    selective: bool = False,
    delta: float | None = None,
) -> Threshold:
    """The smallest threshold of the grid whose observed risk is at most `epsilon`; `SERVE_NOTHING` if none is.

    `confidence`: shape (n,), in [0, 1]; `agrees`: shape (n,), bool. The risk is over all cases, or with `selective`
    over those served, of which there must be one at least. With `delta` it is not the observed risk but its upper
    Clopper-Pearson bound of that level that must be at most `epsilon`, or no loss may be observed at all: of few cases,
    few losses may be luck. Neither promises anything about new cases: choose at half of the epsilon that is to be
    certified, then certify on other cases. ValueError for arrays that do not match.
    """
    table = _Table.of(confidence, agrees, default_grid() if grid is None else grid)
    if table.n == 0:
        return Threshold(SERVE_NOTHING, 0.0, 0.0, 0)
    trials = table.served if selective else np.full(table.grid.size, table.n)
    kept = table.losses <= epsilon * trials
    if delta is not None:
        kept = (table.losses == 0) | (clopper_pearson_uppers(table.losses, trials, delta) <= epsilon)
    allowed = np.flatnonzero(kept & (trials > 0))
    # The grid is strict to loose, so the last allowed one serves most.
    return (
        table.at(int(allowed[-1]), selective=selective) if allowed.size else Threshold(SERVE_NOTHING, 0.0, 0.0, table.n)
    )


def certify_fixed(
    confidence: ArrayLike,
    agrees: ArrayLike,
    epsilon: float,
    delta: float,
    grid: ArrayLike,
    *,
    selective: bool = False,
) -> Threshold | None:
    """The loosest threshold of `grid` with risk <= `epsilon`, wrong with probability `delta` at most; None if none is.

    Walks the grid from strict to loose and stops before the first threshold whose Clopper-Pearson upper bound (level
    `delta`) is above `epsilon`: fixed-sequence testing (Angelopoulos et al. 2021, arXiv 2110.01052), which
    needs no correction for the length of the walk. The grid must not have been chosen on these cases. Valid for one
    call on a set of fixed size; under repeated looks use `stillhouse.quality.eprocess.AgreementTest`.

    With `selective` the promise is on the share of *served* cases that disagree, and the strictest threshold of the
    grid must itself serve enough cases, at least log(delta) / log(1 - epsilon) of them, or the walk ends where it
    begins. ValueError for arrays that do not match, an empty grid, or epsilon or delta outside (0, 1).
    """
    if not (0.0 < epsilon < 1.0 and 0.0 < delta < 1.0):
        raise ValueError(f"epsilon {epsilon} and delta {delta} must both lie between 0 and 1")
    table = _Table.of(confidence, agrees, grid)
    trials = table.served if selective else np.full(table.grid.size, table.n)
    kept = clopper_pearson_uppers(table.losses, trials, delta) <= epsilon
    walked = table.grid.size if kept.all() else int(np.argmin(kept))
    return table.at(walked - 1, selective=selective) if walked else None


@dataclass(frozen=True, slots=True)
class _Table:
    """Counts at every threshold, strict to loose; three arrays of the grid's shape."""

    grid: NDArray[np.float64]
    served: NDArray[np.int64]
    losses: NDArray[np.int64]
    n: int

    @classmethod
    def of(cls, confidence: ArrayLike, agrees: ArrayLike, grid: ArrayLike) -> _Table:
        scores = np.asarray(confidence, dtype=np.float64)
        agreed = np.asarray(agrees, dtype=bool)
        if scores.ndim != 1 or scores.shape != agreed.shape:
            raise ValueError(f"confidence {scores.shape} and agrees {agreed.shape} must be lists of one length")
        if np.isnan(scores).any():
            raise ValueError("a confidence is NaN; the student that gave it must not be judged, let alone served")
        strict_first = np.unique(np.asarray(grid, dtype=np.float64))[::-1]
        if strict_first.size == 0 or np.isnan(strict_first).any():
            raise ValueError("the grid has no thresholds, or a NaN; give at least one number")
        served = scores.size - np.searchsorted(np.sort(scores), strict_first, side="left")
        wrong = np.sort(scores[~agreed])
        losses = wrong.size - np.searchsorted(wrong, strict_first, side="left")
        return cls(strict_first, served, losses, int(scores.size))

    def at(self, i: int, *, selective: bool = False) -> Threshold:
        served, losses = int(self.served[i]), int(self.losses[i])
        base = served if selective else self.n
        return Threshold(float(self.grid[i]), served / self.n, losses / base if base else 0.0, self.n)
