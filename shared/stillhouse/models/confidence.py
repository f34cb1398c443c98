"""How sure a student is of its answer: one number in [0, 1], the same in gates, in shadow's replay and in serving.

- `max_probability`: the largest calibrated probability.
- `margin`: the largest less the second.
- `learned`: the probability that it agrees with its teacher, by a logistic regression on what `signals` gives, fitted
  on texts that the student neither learned from nor was chosen on.

A student that writes has the same three, of its tokens (`of_written`), and one more:

- `self_consistency`: the share of answers drawn at random that say the same (Wang et al. 2203.11171); that costs as
  many answers again as are drawn (`of_samples`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Kind = Literal["max_probability", "margin", "learned", "self_consistency"]

SAMPLES: Final = 5  # answers that self-consistency draws beside the one that it judges
TEMPERATURE: Final = 0.7

LARGEST = 30.0  # of log-odds and log-ratios: beyond it they say nothing more


@dataclass(frozen=True, slots=True)
class Confidence:
    """How confidence is computed. `weights`, `centre`, `scale` (one a signal) and `bias` matter to `learned` only."""

    kind: Kind = "max_probability"
    weights: tuple[float, ...] = ()
    centre: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    bias: float = 0.0

    def of(self, probabilities: NDArray[np.float64], signals: NDArray[np.float64] | None = None) -> float:
        """The confidence of an answer with `probabilities` [labels]; `signals` [n] where the kind is `learned`."""
        if self.kind == "max_probability":
            return float(probabilities.max())
        if self.kind == "margin":
            second, first = np.partition(probabilities, -2)[-2:]
            return float(first - second)
        assert signals is not None
        return self.learned(signals)

    def of_written(self, log_probs: Sequence[float], margins: Sequence[float]) -> float:
        """The confidence of an answer of so many tokens: their log-probabilities, and by how much they led the next.

        `max_probability` is the geometric mean of the tokens' probabilities (length-normalised log-probability),
        `margin` the probability that the least certain token had beside the next.
        """
        if not log_probs:
            return 0.0
        if self.kind in ("max_probability", "self_consistency"):
            return math.exp(min(0.0, sum(log_probs) / len(log_probs)))
        if self.kind == "margin":
            return 1.0 / (1.0 + math.exp(-max(-LARGEST, min(LARGEST, min(margins)))))
        return self.learned(written_signals(log_probs, margins))

    def of_samples(self, output: str, samples: Sequence[str], log_probs: Sequence[float]) -> float:
        """The confidence of `output` beside `samples` drawn for the same question, in [0, 1].

        (samples that say the same + p) / (samples + 1), p being the geometric mean of the tokens' probabilities: shares
        of few samples are few values, and p orders the answers within each. JSON is the same whatever its keys' order,
        text whatever its case and spaces.
        """
        p = math.exp(min(0.0, sum(log_probs) / len(log_probs))) if log_probs else 0.0
        said = _plain(output)
        return (sum(_plain(one) == said for one in samples) + p) / (len(samples) + 1)

    def learned(self, signals: NDArray[np.float64]) -> float:
        """The probability of agreeing that a logistic regression gives to `signals` [n]."""
        total = self.bias
        for value, centre, scale, weight in zip(signals.tolist(), self.centre, self.scale, self.weights, strict=True):
            total += weight * (value - centre) / scale
        return 1.0 / (1.0 + math.exp(-max(-LARGEST, min(LARGEST, total))))

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Confidence:
        """From what `student.json` holds. Raises `ValueError`, `TypeError`."""
        found = cls(
            kind=raw.get("kind", "max_probability"),
            weights=tuple(float(value) for value in raw.get("weights", ())),
            centre=tuple(float(value) for value in raw.get("centre", ())),
            scale=tuple(float(value) for value in raw.get("scale", ())),
            bias=float(raw.get("bias", 0.0)),
        )
        if found.kind not in get_args(Kind) or min(found.scale, default=1.0) <= 0.0:
            raise ValueError(f"confidence {found.kind!r} or its scale is out of range")
        return found


def signals(
    logits: NDArray[np.float32],
    temperature: float,
    pooled: NDArray[np.float32] | None = None,
    centroids: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """What the learned confidence looks at, float64 [3], or [5] where the student has an encoder.

    Of `logits` [labels] over `temperature`: log-odds of the largest probability, log-ratio of the two largest, and the
    free energy (log-sum-exp, Liu et al. 2010.03759), which is small for texts unlike those learned from. Of the
    sentence vector `pooled` [width]: cosine distance to the answer's centroid, and how much nearer that is than the
    next one; `centroids` [labels, width] are of length 1, or 0 where a label had no text.
    """
    scaled = logits.astype(np.float64) / temperature
    best = int(scaled.argmax())
    top = float(scaled[best])
    scaled[best] = -np.inf  # the others remain
    second = float(scaled.max())
    rest = second + math.log(float(np.exp(scaled - second).sum()))
    larger, smaller = max(top, rest), min(top, rest)
    found = [_within(top - rest), _within(top - second), larger + math.log1p(math.exp(smaller - larger))]
    if pooled is not None and centroids is not None:
        length = float(np.linalg.norm(pooled))
        distances = 1.0 - (centroids.astype(np.float64) @ pooled.astype(np.float64)) / max(length, 1e-12)
        next_one = np.concatenate((distances[:best], distances[best + 1 :])).min()
        found += [distances[best], next_one - distances[best]]
    return np.array(found)


def written_signals(log_probs: Sequence[float], margins: Sequence[float]) -> NDArray[np.float64]:
    """What the learned confidence of a written answer looks at, float64 [6].

    Of its tokens: mean and sum of the log-probabilities, the smallest one, the smallest and the mean margin to the next
    token, and the logarithm of how many there are. An answer of many tokens is wrong where one of them is, so the
    smallest say more than the mean (as in Malinin & Gales 2002.07650, of whose measures these are the cheap ones).
    """
    values, leads = np.maximum(np.array(log_probs, dtype=np.float64), -LARGEST), np.array(margins, dtype=np.float64)
    leads = np.clip(leads, -LARGEST, LARGEST)
    return np.array(
        [
            values.mean(),
            max(values.sum(), -10 * LARGEST),
            values.min(),
            leads.min(),
            leads.mean(),
            math.log(len(values)),
        ]
    )


def _plain(output: str) -> str:
    try:
        return json.dumps(json.loads(output), sort_keys=True)
    except (ValueError, RecursionError):
        return " ".join(output.casefold().split())


def _within(value: float) -> float:
    return max(-LARGEST, min(LARGEST, value))
