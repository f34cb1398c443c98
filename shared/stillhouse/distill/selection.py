"""Which texts to ask the teacher about, when it cannot be asked about all: what teaches a student most for its price.

How unsure the student is (least margin, entropy), what is unlike all that is known (greedy k-centre, Sener & Savarese
1708.00489, algorithm 1), or both at once (BADGE, Ash et al. 1906.03671). What is chosen so is no random sample: it may
teach, and may never judge.

>>> import numpy as np
>>> unsure = np.array([[0.50, 0.49, 0.01], [0.98, 0.01, 0.01], [0.34, 0.33, 0.33]])
>>> least_sure(margins(unsure), 2).tolist()
[0, 2]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def margins(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """The largest probability less the next, float64 [n], of `probabilities` [n, labels]; small is unsure."""
    _table(probabilities)
    top = np.sort(probabilities.astype(np.float64), axis=1)
    return np.asarray(top[:, -1] - top[:, -2], dtype=np.float64)


def certainty(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Negative entropy, float64 [n] nats, of `probabilities` [n, labels]; small is unsure.

    >>> certainty(np.array([[0.5, 0.5], [1.0, 0.0]])).round(3).tolist()
    [-0.693, 0.0]
    """
    _table(probabilities)
    p = probabilities.astype(np.float64)
    return np.asarray(np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0.0).sum(axis=1), dtype=np.float64)


def least_sure(sureness: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Places of the `count` smallest of `sureness` [n], smallest first; of equals the first."""
    _enough(len(sureness), count)
    return np.argsort(sureness, kind="stable")[:count].astype(np.int64)


def k_centre(vectors: NDArray[np.floating], count: int, known: NDArray[np.floating] | None = None) -> NDArray[np.int64]:
    """Places of `count` of `vectors` [n, width], each the farthest from `known` [m, width] and those before it.

    Greedy, so its cover radius is at most twice the smallest possible (Gonzalez 1985). Without `known` the first is
    the farthest from the mean.

    >>> k_centre(np.array([[0.0], [1.0], [5.0], [9.0]]), 2, known=np.array([[0.0]])).tolist()
    [3, 2]
    """
    _enough(len(vectors), count)
    points = vectors.astype(np.float64)
    away = np.full(len(points), np.inf)
    if known is None or not len(known):
        away = _squares(points, points.mean(axis=0))
    else:
        if known.shape[1:] != vectors.shape[1:]:
            raise ValueError(f"vectors are {vectors.shape[1:]} wide and known ones {known.shape[1:]}; use one encoder")
        for centre in known.astype(np.float64):
            away = np.minimum(away, _squares(points, centre))
    chosen: list[int] = []
    for _ in range(count):
        place = int(away.argmax())
        chosen.append(place)
        near = _squares(points, points[place])
        away = near if len(chosen) == 1 and (known is None or not len(known)) else np.minimum(away, near)
        away[chosen] = -1.0
    return np.array(chosen, dtype=np.int64)


def badge(
    probabilities: NDArray[np.floating], vectors: NDArray[np.floating], count: int, seed: int
) -> NDArray[np.int64]:
    """Places of `count` texts whose gradients are large and unlike each other: k-means++ on gradient embeddings.

    The gradient of the head's loss, were the likeliest label right, is (p - onehot(argmax p)) x v: `probabilities` [n,
    labels] and `vectors` [n, width], what the head looks at. Its outer product is never built: the square distance of
    two is |a|^2|v|^2 + |b|^2|w|^2 - 2 (a.b)(v.w).

    >>> unsure = np.array([[0.5, 0.5], [0.5, 0.5], [0.99, 0.01]])
    >>> alike = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])  # the first two say the same, so one of them is asked
    >>> badge(unsure, alike, 2, seed=0).tolist()
    [0, 2]
    """
    _table(probabilities)
    _enough(len(probabilities), count)
    if len(vectors) != len(probabilities):
        raise ValueError(f"{len(probabilities)} texts have probabilities and {len(vectors)} have vectors")
    random = np.random.default_rng(seed)
    errors = probabilities.astype(np.float64)
    errors[np.arange(len(errors)), errors.argmax(axis=1)] -= 1.0
    points = vectors.astype(np.float64)
    sizes = (errors**2).sum(axis=1) * (points**2).sum(axis=1)
    chosen = [int(sizes.argmax())]
    away = np.full(len(sizes), np.inf)
    while len(chosen) < count:
        last = chosen[-1]
        products = (errors @ errors[last]) * (points @ points[last])
        away = np.minimum(away, np.maximum(sizes + sizes[last] - 2.0 * products, 0.0))
        away[chosen] = 0.0
        if away.sum() <= 0:  # all that is left says the same
            rest = np.setdiff1d(np.arange(len(sizes)), chosen)
            chosen += rest[: count - len(chosen)].tolist()
            break
        chosen.append(int(random.choice(len(sizes), p=away / away.sum())))
    return np.array(chosen, dtype=np.int64)


def _squares(points: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(((points - centre) ** 2).sum(axis=1), dtype=np.float64)


def _table(probabilities: NDArray[np.floating]) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise ValueError(f"probabilities have the shape {probabilities.shape}; give [texts, at least 2 labels]")


def _enough(there: int, count: int) -> None:
    if not 0 < count <= there:
        raise ValueError(f"{count} of {there} texts cannot be chosen")
