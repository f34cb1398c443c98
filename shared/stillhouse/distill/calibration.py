"""One number that makes a student's confidences honest: temperature scaling (Guo et al. 1706.04599)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def calibrate(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> tuple[float, float]:
    """The temperature in [0.05, 20] that fits the teacher's labels best, and the mean loss there (nats).

    `logits` [n, labels], `targets` int64 [n] in [0, labels). The loss is the negative log-likelihood of the targets and
    of one pseudo-case, a text like the others whose label may be any. Without it a student that agrees on every one of
    a few hundred texts would be given infinite confidence.

    >>> logits = np.array([[4.0, 0.0]] * 100, dtype=np.float32)  # says 98 % of label 0, and 80 of 100 are
    >>> temperature, _ = calibrate(logits, np.array([0] * 80 + [1] * 20))
    >>> round(1 / (1 + math.exp(-4.0 / temperature)), 2)
    0.8
    """
    from scipy.optimize import minimize_scalar

    scores = logits.astype(np.float64)
    at = np.arange(len(scores))
    chosen = scores[at, targets]
    average = scores.mean(axis=1)

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        scaled = scores / temperature
        largest = scaled.max(axis=1)
        log_sums = np.log(np.exp(scaled - largest[:, None]).sum(axis=1)) + largest
        cases = log_sums - chosen / temperature
        pseudo = log_sums - average / temperature
        return float((cases.sum() + pseudo.mean()) / (len(scores) + 1))

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded")
    return float(math.exp(found.x)), float(found.fun)
