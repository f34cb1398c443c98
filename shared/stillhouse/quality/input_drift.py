"""Whether a window of inputs looks like the reference: without labels, so it can raise doubts and decide nothing else.

Two tests of H0 "reference and window come from one source", for two kinds of change:

- what the student makes of the inputs: Kolmogorov-Smirnov on every column of its softmax, Bonferroni over the columns
  (Rabanser, Guennemann & Lipton, "Failing Loudly", arXiv 1810.11953);
- the inputs themselves: the kernel two-sample statistic MMD on embeddings (Gretton et al., JMLR 13, 2012), with a
  permutation p-value.

Both p-values are exact: P(p <= a) <= a for every a where H0 holds. Windows are tested one after the other against one
reference, for ever. `level_of` spends a share of the allowed false alarms on every window, so that by the union bound,
which does not mind that the windows share their reference, P(false alarm in any `HORIZON` requests) is at most what was
allowed.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

HORIZON: Final = 10_000  # requests that an allowed chance of false alarms is stated for
_DRAWS: Final = 64  # permutations computed at a time
_ENOUGH: Final = 20  # permutations as extreme as what was seen, after which no more are drawn


def level_of(allowed: float, window: int) -> float:
    """The level of one window of `window` requests, so that P(false alarm within `HORIZON` requests) <= `allowed`.

    ValueError for an `allowed` outside (0, 1) or a window outside [1, HORIZON].
    """
    if not 0.0 < allowed < 1.0:
        raise ValueError(f"{allowed} false alarms are no chance; give a number between 0 and 1")
    if not 1 <= window <= HORIZON:
        raise ValueError(f"a window of {window} requests is impossible; give 1 to {HORIZON:,}")
    return allowed * window / HORIZON


def softmax_ks(reference: NDArray[np.float64], window: NDArray[np.float64]) -> float:
    """The smallest two-sample KS p-value of any column, times the number of columns; at most 1.

    Both [n, columns], of one n (the exact null distribution has a closed form then). Ties only make it larger.
    ValueError for shapes that differ.
    """
    if reference.shape != window.shape or reference.ndim != 2:
        raise ValueError(f"reference {reference.shape} and window {window.shape} must be tables of one shape")
    n, columns = reference.shape
    largest = max((_steps_apart(reference[:, c], window[:, c]) for c in range(columns)), default=0)
    return float(min(1.0, columns * ks_tail(largest, n)))


def ks_tail(steps: int, n: int) -> float:
    """P(D >= steps / n) for two samples of size n from one continuous source (Gnedenko & Korolyuk 1951)."""
    if steps <= 0:
        return 1.0
    k = np.arange(1, n // steps + 1)
    log_terms = 2 * gammaln(n + 1) - gammaln(n - k * steps + 1) - gammaln(n + k * steps + 1)
    return float(np.clip(2 * np.sum((-1.0) ** (k - 1) * np.exp(log_terms)), 0.0, 1.0))


def mmd_permutation(
    reference: NDArray[np.float64], window: NDArray[np.float64], *, permutations: int, seed: int
) -> float:
    """A permutation p-value of MMD with a Gaussian kernel; [n, d] and [m, d]. The same seed gives the same p-value.

    The kernel's width is the median distance of the pooled points, which permuting them does not change. Drawing stops
    once `_ENOUGH` permutations were as extreme (Besag & Clifford 1991): exact too, and most windows need few.
    The smallest possible value is 1 / (permutations + 1). ValueError for empty samples or other widths.
    """
    if not len(reference) or not len(window) or reference.shape[1:] != window.shape[1:]:
        raise ValueError(f"reference {reference.shape} and window {window.shape} cannot be compared")
    pooled = np.concatenate([reference, window]).astype(np.float32)
    kernel = _gaussian(pooled)
    weights = np.concatenate([np.full(len(reference), 1 / len(reference)), np.full(len(window), -1 / len(window))])
    weights = weights.astype(np.float32)
    observed = float(weights @ kernel @ weights)
    # Equal up to rounding counts as equal: identical points must give a p-value of 1.
    bar = observed - 1e-6 * abs(observed) - 1e-9
    random = np.random.default_rng(seed)
    drawn, extreme = 0, 0
    while drawn < permutations:
        some = min(_DRAWS, permutations - drawn)
        shuffled = random.permuted(np.repeat(weights[:, None], some, axis=1), axis=0)
        for value in np.einsum("ij,ij->j", shuffled, kernel @ shuffled):
            drawn += 1
            extreme += bool(value >= bar)
            if extreme == _ENOUGH:
                return extreme / drawn
    return (extreme + 1) / (drawn + 1)


def permutations_for(level: float) -> int:
    """So many permutations that a p-value of half of `level` is possible."""
    return int(np.ceil(2.0 / level))


def _steps_apart(a: NDArray[np.float64], b: NDArray[np.float64]) -> int:
    """n times the largest distance of two empirical distributions of n points each."""
    a, b = np.sort(a), np.sort(b)
    if a[0] == a[-1] == b[0] == b[-1]:
        return 0
    points = np.concatenate([a, b])
    apart = np.searchsorted(a, points, side="right") - np.searchsorted(b, points, side="right")
    return int(np.abs(apart).max())


def _gaussian(points: NDArray[np.float32]) -> NDArray[np.float32]:
    squares = np.einsum("ij,ij->i", points, points)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * points @ points.T, 0.0)
    middle = float(np.median(distances))
    # Half of the points may be one point.
    width = middle if middle > 0 else float(distances.mean()) or 1.0
    return np.asarray(np.exp(-distances / width), dtype=np.float32)
