"""Fits the learned confidence: the probability that the student agrees with its teacher, given its signals.

A logistic regression with a small ridge (Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 2009,
4.4), on texts that the student neither learned from nor was chosen on. Few numbers are fitted, so some hundred texts
do; with fewer, or where nearly all of them agree, the largest probability stays the confidence.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillhouse.models.confidence import Confidence

FEWEST_TEXTS: Final = 100
FEWEST_OF_EACH: Final = 10  # that agree, and that do not
RIDGE: Final = 1.0  # as if each weight had been seen to be 0 with variance 1


def fit_confidence(signals: NDArray[np.float64], agrees: NDArray[np.bool_]) -> Confidence | None:
    """The learned confidence for `signals` [n, k] and `agrees` [n]; None where there is too little to learn from.

    >>> signals = np.linspace(-2.0, 2.0, 200)[:, None]
    >>> learnt = fit_confidence(signals, np.sin(np.arange(200)) < signals[:, 0])  # the larger, the likelier it agrees
    >>> learnt is not None and learnt.weights[0] > 0
    True
    >>> fit_confidence(signals[:50], np.ones(50, dtype=np.bool_)) is None
    True
    """
    from scipy.optimize import minimize

    right = int(agrees.sum())
    if len(agrees) < FEWEST_TEXTS or min(right, len(agrees) - right) < FEWEST_OF_EACH:
        return None
    centre, scale = signals.mean(axis=0), np.maximum(signals.std(axis=0), 1e-6)
    table = np.column_stack([(signals - centre) / scale, np.ones(len(agrees))])
    signs = np.where(agrees, 1.0, -1.0)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = signs * (table @ parameters)
        wrong = np.exp(-np.logaddexp(0.0, margins))  # the probability given to what did not happen
        gradient = -(table * (signs * wrong)[:, None]).sum(axis=0)
        gradient[:-1] += RIDGE * parameters[:-1]
        value = float(np.logaddexp(0.0, -margins).sum()) + 0.5 * RIDGE * float((parameters[:-1] ** 2).sum())
        return value, gradient

    found = minimize(loss, np.zeros(table.shape[1]), jac=True, method="L-BFGS-B").x
    return Confidence(
        kind="learned",
        weights=tuple(float(value) for value in found[:-1]),
        centre=tuple(float(value) for value in centre),
        scale=tuple(float(value) for value in scale),
        bias=float(found[-1]),
    )
