"""Many teachers, one student: what the teachers answer together is what the student learns from.

Their linear opinion pool (Genest & Zidek 1986), p(c) = sum over k of w_k p_k(c), with weights that are equal (Hinton,
Vinyals & Dean 1503.02531), that grow with each teacher's confidence in the text at hand (in the manner of Kwon et al.
2020, adaptive distillation by entropy), that make texts with known labels likeliest, or that differ by class.

>>> import numpy as np
>>> sure, unsure = np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]])
>>> averaged(np.stack([sure, unsure])).tolist()
[[0.7, 0.3]]
>>> by_confidence(np.stack([sure, unsure])).round(3).tolist()
[[0.9, 0.1]]
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillhouse.models.port import ModelError

ROUNDS: Final = 200
CLOSE: Final = 1e-9


def averaged(said: NDArray[np.floating]) -> NDArray[np.float64]:
    """The mean answer [n, L] of `said` [teachers, n, L], whose rows sum to 1."""
    return np.asarray(_checked(said).mean(axis=0), dtype=np.float64)


def by_confidence(said: NDArray[np.floating]) -> NDArray[np.float64]:
    """The answer [n, L] in which a teacher counts, text by text, for 1 - H(p_k) / log L; alike where none is sure."""
    table = _checked(said)
    logs = np.log(np.maximum(table, 1e-300))
    weights = 1.0 + (table * logs).sum(axis=2) / np.log(table.shape[2])
    weights = np.maximum(weights, 0.0) + 1e-12  # rounding may give -1e-17
    weights /= weights.sum(axis=0, keepdims=True)
    return np.asarray((weights[:, :, None] * table).sum(axis=0), dtype=np.float64)


def validation_weights(said: NDArray[np.floating], answers: NDArray[np.integer]) -> NDArray[np.float64]:
    """Weights [teachers], summing to 1, that make `answers` [n] likeliest under the pool of `said` [teachers, n, L].

    By expectation-maximisation (Dempster, Laird & Rubin 1977) from equal weights: the likelihood of a mixture in its
    weights is concave, so this is its maximum. The texts must not be those that the teachers learnt from.

    >>> right, wrong = np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([[0.2, 0.8], [0.6, 0.4]])
    >>> weights = validation_weights(np.stack([right, wrong]), np.array([0, 1]))
    >>> weights.round(3).tolist()
    [1.0, 0.0]
    >>> by_validation(np.stack([right, wrong]), weights).round(3).tolist()
    [[0.9, 0.1], [0.1, 0.9]]
    """
    given = np.maximum(_given(said, answers), 1e-12)  # [teachers, n]
    weights = np.full(len(given), 1.0 / len(given))
    for _ in range(ROUNDS):
        parts = weights[:, None] * given
        after: NDArray[np.float64] = (parts / parts.sum(axis=0)).mean(axis=1)
        if np.abs(after - weights).max() < CLOSE:
            return after
        weights = after
    return weights


def by_validation(said: NDArray[np.floating], weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """The answer [n, L] with one weight for each teacher, `weights` [teachers] >= 0."""
    table = _checked(said)
    if weights.shape != table.shape[:1] or (weights < 0).any() or weights.sum() <= 0:
        raise ModelError(f"{len(table)} teachers take as many weights of 0 or more, not {weights.shape}.")
    return np.asarray(np.tensordot(weights / weights.sum(), table, axes=1), dtype=np.float64)


def class_weights(said: NDArray[np.floating], answers: NDArray[np.integer]) -> NDArray[np.float64]:
    """Weights [teachers, L], each column summing to 1: how well each teacher knows each class, by F1 on `answers` [n].

    One right and one wrong answer are added to every class, so that few texts move weights little.

    >>> knows_0 = np.array([[0.9, 0.1]] * 4)  # and takes everything for it
    >>> knows_both = np.array([[0.9, 0.1]] * 2 + [[0.1, 0.9]] * 2)
    >>> weights = class_weights(np.stack([knows_0, knows_both]), np.array([0, 0, 1, 1]))
    >>> weights.round(3).tolist()
    [[0.429, 0.231], [0.571, 0.769]]
    >>> by_class(np.stack([knows_0, knows_both]), weights).argmax(axis=1).tolist()
    [0, 0, 1, 1]
    """
    table = _checked(said)
    _given(said, answers)
    chosen, classes = table.argmax(axis=2), np.arange(table.shape[2])
    picked = chosen[:, :, None] == classes  # [teachers, n, L]
    true = answers[None, :, None] == classes
    right = (picked & true).sum(axis=1)
    f1 = (2.0 * right + 1.0) / (picked.sum(axis=1) + true.sum(axis=1) + 2.0)
    return np.asarray(f1 / f1.sum(axis=0, keepdims=True), dtype=np.float64)


def by_class(said: NDArray[np.floating], weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """The answer [n, L], p(c) in proportion to sum over k of w_kc p_k(c), with `weights` [teachers, L] >= 0."""
    table = _checked(said)
    if weights.shape != (table.shape[0], table.shape[2]) or (weights < 0).any():
        raise ModelError(
            f"{table.shape[0]} teachers of {table.shape[2]} classes take weights of that shape, not {weights.shape}."
        )
    pooled = (weights[:, None, :] * table).sum(axis=0)
    total = pooled.sum(axis=1, keepdims=True)
    if (total <= 0).any():
        raise ModelError("All weights of the only classes that a text may have are 0; give each class a teacher.")
    return np.asarray(pooled / total, dtype=np.float64)


def _checked(said: NDArray[np.floating]) -> NDArray[np.float64]:
    if said.ndim != 3 or len(said) < 2 or said.shape[2] < 2:
        raise ModelError(f"The teachers' answers are {list(said.shape)}; give [at least 2 teachers, texts, labels].")
    table = said.astype(np.float64)
    if (table < 0).any() or not np.allclose(table.sum(axis=2), 1.0, atol=1e-3):
        raise ModelError("The teachers' answers are no probabilities: every row must sum to 1.")
    return table


def _given(said: NDArray[np.floating], answers: NDArray[np.integer]) -> NDArray[np.float64]:
    table = _checked(said)
    if answers.shape != table.shape[1:2]:
        raise ModelError(f"The teachers answered {table.shape[1]} texts and {answers.shape[0]} answers are given.")
    return np.asarray(table[:, np.arange(len(answers)), answers], dtype=np.float64)
