"""How good a student will be, from few that are trained on a sample: curves over its operations and over its texts.

Error over texts follows a power law, e(n) = a n^-b (Hestness et al. 1712.00409); over an encoder's operations f it is
taken as linear in log f between students of two and more depths, as layer-dropping curves are near their middle.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from stillhouse.distill.architecture.objectives import objectives
from stillhouse.distill.data import LabelledText
from stillhouse.models.port import ModelError

if TYPE_CHECKING:
    from stillhouse.distill.training import TrainedStudent
    from stillhouse.tasks import StudentCandidate

LEAST_TEXTS: Final = 60
SMALLEST_ERROR: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Trained:
    """A student trained on a sample: agreement in [0, 1] on `judged` texts after learning from `texts`.

    `layers` of a cut encoder; 0 of other architectures.
    """

    layers: int
    texts: int
    judged: int
    agreement: float
    seconds: float
    architecture: str = "cut_encoder"


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


@dataclass(frozen=True, slots=True)
class Sample:
    """Texts to learn from, to choose the epoch on, and to judge on; all labels. `soft`: there are probabilities."""

    learn: list[LabelledText]
    select: list[LabelledText]
    judged: list[LabelledText]
    labels: tuple[str, ...]
    soft: bool


def sample_of(rows: Sequence[LabelledText], sample: int, seed: int = 0) -> Sample:
    """At most `sample` of `rows` to learn from, drawn by `seed`; a quarter of the rows, at most 500, judges.

    Raises `ModelError` where there are too few.
    """
    if len(rows) < LEAST_TEXTS:
        raise ModelError(f"{len(rows)} texts; a curve of quality needs {LEAST_TEXTS} or more.")
    labels = tuple(sorted({row.label for row in rows}))
    if len(labels) < 2:
        raise ModelError(f"All texts are labelled {labels[0]!r}; students are compared on 2 labels or more.")
    order = np.random.default_rng(seed).permutation(len(rows))
    shuffled = [rows[i] for i in order]
    judged = shuffled[: min(500, len(rows) // 4)]
    rest = shuffled[len(judged) :][:sample]
    cut = len(rest) * 4 // 5
    return Sample(rest[:cut], rest[cut:], judged, labels, any(row.distribution for row in rows))


def train_on_sample(
    rows: Sequence[LabelledText],
    layers: Sequence[int],
    *,
    sample: int = 800,
    epochs: int = 4,
    seed: int = 0,
    on_done: Callable[[Trained], None] | None = None,
) -> list[Trained]:
    """Train cut encoders of `layers` on a half and on the whole of `sample_of`, by the recommended objective.

    Raises `ModelError` where there are too few texts.
    """
    from stillhouse.tasks import StudentCandidate

    found: list[Trained] = []
    drawn = sample_of(rows, sample, seed)
    terms = objectives(drawn.soft)[0].terms
    for count in layers:
        candidate = StudentCandidate(architecture="cut_encoder", layers=count, epochs=epochs, distill=terms)
        for size in (len(drawn.learn) // 2, len(drawn.learn)):
            found.append(learnt(candidate, drawn, size, seed)[1])
            if on_done:
                on_done(found[-1])
    return found


def learnt(candidate: StudentCandidate, drawn: Sample, size: int, seed: int) -> tuple[TrainedStudent, Trained]:
    """A student that learnt from the first `size` texts of the sample, and how well it agrees. Raises `ModelError`."""
    from stillhouse.distill.training import train

    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        student = train(
            candidate,
            drawn.labels,
            drawn.learn[:size],
            drawn.select,
            on_progress=lambda _: None,
            checkpoint_dir=Path(scratch),
            seed=seed,
        )
    right = agreement(student, drawn.judged)
    layers = candidate.layers if candidate.architecture == "cut_encoder" else 0
    took = time.monotonic() - begun
    return student, Trained(layers, size, len(drawn.judged), right, took, candidate.architecture)


def agreement(student: TrainedStudent, judged: Sequence[LabelledText]) -> float:
    """Share of the texts `judged` to which the trained module gives their label."""
    from stillhouse.distill.training import predict
    from stillhouse.models.features import Featuriser, prepare

    featuriser = Featuriser(student.spec, student.tokenizer)
    ids = [featuriser.ids(prepare(row.text)) for row in judged]
    logits = predict(student.module, ids, student.spec.has_vectors)
    said = [student.labels[i] for i in logits.argmax(axis=1)]
    return float(np.mean([a == row.label for a, row in zip(said, judged, strict=True)]))
