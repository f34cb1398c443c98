"""How good a student will be, from few that are trained on a sample: curves over its operations and over its texts.

Error over texts follows a power law, e(n) = a n^-b (Hestness et al. 1712.00409); over an encoder's operations f it is
taken as linear in log f between students of two and more depths, as layer-dropping curves are near their middle.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from stillhouse.distill.data import LabelledText
from stillhouse.models.port import ModelError

LEAST_TEXTS: Final = 60
SMALLEST_ERROR: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Trained:
    """A student trained on a sample: agreement in [0, 1] on `judged` texts after learning from `texts`."""

    layers: int
    texts: int
    judged: int
    agreement: float
    seconds: float


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """e(n) = a n^-b of the share of disagreements."""

    a: float
    b: float

    def agreement(self, texts: int) -> float:
        """Expected agreement in [0, 1] after learning from `texts`."""
        return 1.0 - min(1.0, self.a * math.pow(texts, -self.b))


def learning_curve(points: Sequence[tuple[int, float]]) -> LearningCurve:
    """The power law through (texts, agreement), by least squares in logarithms; b is never negative.

    >>> curve = learning_curve([(100, 0.80), (400, 0.90)])
    >>> round(curve.b, 3), round(curve.agreement(1600), 3)
    (0.5, 0.95)
    """
    if len({texts for texts, _ in points}) < 2:
        raise ModelError("A learning curve needs students trained on two numbers of texts or more.")
    x = np.log([float(texts) for texts, _ in points])
    y = np.log([max(SMALLEST_ERROR, 1.0 - agreement) for _, agreement in points])
    slope = float(np.polyfit(x, y, 1)[0])
    b = max(0.0, -slope)
    return LearningCurve(a=float(np.exp(np.mean(y + b * x))), b=b)


def over_operations(points: Sequence[tuple[float, float]], flops: float) -> float:
    """Expected agreement of an encoder of `flops`, from (flops, agreement) of others; more operations never cost any.

    >>> round(over_operations([(1e6, 0.90), (4e6, 0.94)], 2e6), 3)
    0.92
    """
    if len({one for one, _ in points}) < 2:
        raise ModelError("A curve over operations needs students of two sizes or more.")
    x = np.log([one for one, _ in points])
    slope = max(0.0, float(np.polyfit(x, [agreement for _, agreement in points], 1)[0]))
    level = float(np.mean([agreement for _, agreement in points])) - slope * float(x.mean())
    return min(1.0, max(0.0, level + slope * math.log(flops)))


def train_on_sample(
    rows: Sequence[LabelledText],
    layers: Sequence[int],
    *,
    sample: int = 800,
    epochs: int = 4,
    seed: int = 0,
    on_done: Callable[[Trained], None] | None = None,
) -> list[Trained]:
    """Train cut encoders of `layers` on a half and on the whole of at most `sample` of `rows`; judged on the others.

    A quarter of the rows, at most 500, is never learned from. Raises `ModelError` where there are too few.
    """
    import time

    from stillhouse.distill.training import predict, train
    from stillhouse.models.features import Featuriser, prepare
    from stillhouse.tasks import StudentCandidate

    if len(rows) < LEAST_TEXTS:
        raise ModelError(f"{len(rows)} texts; a curve of quality needs {LEAST_TEXTS} or more.")
    order = np.random.default_rng(seed).permutation(len(rows))
    shuffled = [rows[i] for i in order]
    judged = shuffled[: min(500, len(rows) // 4)]
    rest = shuffled[len(judged) :][:sample]
    labels = tuple(sorted({row.label for row in rows}))
    cut = len(rest) * 4 // 5
    learn, select = rest[:cut], rest[cut:]
    found: list[Trained] = []
    for count in layers:
        for size in (len(learn) // 2, len(learn)):
            begun = time.monotonic()
            candidate = StudentCandidate(architecture="cut_encoder", layers=count, epochs=epochs)
            with tempfile.TemporaryDirectory() as scratch:
                student = train(
                    candidate,
                    labels,
                    learn[:size],
                    select,
                    on_progress=lambda _: None,
                    checkpoint_dir=Path(scratch),
                    seed=seed,
                )
            featuriser = Featuriser(student.spec, student.tokenizer)
            logits = predict(student.module, [featuriser.ids(prepare(row.text)) for row in judged], True)
            said = [labels[i] for i in logits.argmax(axis=1)]
            right = sum(a == row.label for a, row in zip(said, judged, strict=True))
            found.append(Trained(count, size, len(judged), right / len(judged), time.monotonic() - begun))
            if on_done:
                on_done(found[-1])
    return found
