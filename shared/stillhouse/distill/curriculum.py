"""Easy texts first: what may teach grows with the student's competence (Platanios et al. 1903.09848).

Each text has a difficulty; its rank among all, in (0, 1], is how competent a student must be to see it. Competence
grows with training (equation 5, p = 2 is the paper's square root):

    c(t) = min(1, (t (1 - c0^p) + c0^p)^(1/p)),  t: the share of the curriculum that is over.

On clinc150 students of n-grams agree less with a curriculum, most so by loss: `make bench NAME=schemes`.

>>> import numpy as np
>>> soft = np.array([[0.9, 0.1], [0.5, 0.5], [0.7, 0.3]])
>>> Curriculum.of(by_teacher_confidence(soft), start=0.3).taught(0.0).tolist()
[0]
>>> Curriculum.of(by_teacher_confidence(soft), start=0.3).taught(1.0).tolist()
[0, 1, 2]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Difficulty = Literal["confidence", "loss"]


def by_teacher_confidence(soft: NDArray[np.floating]) -> NDArray[np.float64]:
    """1 less the teacher's largest probability, float64 [n], of `soft` [n, labels]."""
    if soft.ndim != 2:
        raise ValueError(f"the teacher's probabilities have the shape {soft.shape}; give [texts, labels]")
    return np.asarray(1.0 - soft.max(axis=1), dtype=np.float64)


def by_loss(logits: NDArray[np.floating], answers: NDArray[np.integer]) -> NDArray[np.float64]:
    """The cross-entropy of a reference model on each text, float64 [n] nats, of `logits` [n, labels], `answers` [n].

    >>> by_loss(np.array([[0.0, 0.0], [9.0, 0.0]]), np.array([0, 0])).round(3).tolist()
    [0.693, 0.0]
    """
    if logits.ndim != 2 or answers.shape != logits.shape[:1]:
        raise ValueError(f"logits of shape {logits.shape} and answers of shape {answers.shape} are not of one set")
    scores = logits.astype(np.float64)
    largest = scores.max(axis=1)
    log_sums = np.log(np.exp(scores - largest[:, None]).sum(axis=1)) + largest
    return np.asarray(log_sums - scores[np.arange(len(scores)), answers], dtype=np.float64)


def competence(progress: float, start: float = 0.1, power: float = 2.0) -> float:
    """c(t) of the module's head, in [start, 1]. ValueError for a start outside of (0, 1] or a power of 0 or less.

    >>> [round(competence(progress), 2) for progress in (0.0, 0.25, 1.0)]
    [0.1, 0.51, 1.0]
    """
    if not 0.0 < start <= 1.0:
        raise ValueError(f"a competence of {start:g} to start with is impossible; give a share above 0, at most 1")
    if power <= 0:
        raise ValueError(f"the power is {power:g}; give a number above 0")
    done = min(1.0, max(0.0, progress))
    return float(min(1.0, (done * (1.0 - start**power) + start**power) ** (1.0 / power)))


@dataclass(frozen=True, slots=True)
class Curriculum:
    """How competent a student must be for each text: `ranks` float64 [n] in (0, 1], texts equally hard share one.

    It is over after the share `length` of training; from then on every text teaches.
    """

    ranks: NDArray[np.float64]
    start: float = 0.1
    power: float = 2.0
    length: float = 0.5

    @classmethod
    def of(
        cls, difficulty: NDArray[np.floating], *, start: float = 0.1, power: float = 2.0, length: float = 0.5
    ) -> Curriculum:
        """The curriculum of texts of `difficulty` [n]. ValueError for no texts, NaN, or a length outside of (0, 1]."""
        if difficulty.ndim != 1 or not len(difficulty) or np.isnan(difficulty).any():
            raise ValueError("a curriculum needs one number for each of at least one text")
        if not 0.0 < length <= 1.0:
            raise ValueError(f"a curriculum cannot take {length:g} of training; give a share above 0, at most 1")
        competence(0.0, start, power)
        # Rounded: texts that are equally hard but for float32's last digit come together, whatever their label.
        difficulty = np.round(difficulty.astype(np.float64), 6)
        # The empirical distribution function: the share of texts that are no harder.
        ranks = np.searchsorted(np.sort(difficulty), difficulty, side="right") / len(difficulty)
        return cls(ranks, start, power, length)

    def taught(self, progress: float) -> NDArray[np.int64]:
        """Places of the texts that may teach after the share `progress` of training, ascending; never none."""
        able = competence(progress / self.length, self.start, self.power)
        return np.flatnonzero(self.ranks <= max(able, float(self.ranks.min())) + 1e-12)

    def batches(self, progress: float, size: int, seed: int) -> list[NDArray[np.int64]]:
        """An epoch's batches of places after the share `progress` of training, each int64 [<= size].

        As many as without a curriculum, so that an epoch stays an epoch: the texts that may teach come equally often,
        but for the last round of them.
        """
        random = np.random.default_rng(seed)
        may, places = self.taught(progress), np.empty(0, np.int64)
        while len(places) < len(self.ranks):
            places = np.concatenate([places, random.permutation(may)])
        places = places[: len(self.ranks)]
        return [places[start : start + size] for start in range(0, len(places), size)]
