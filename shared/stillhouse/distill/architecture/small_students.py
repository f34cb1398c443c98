"""Students without attention, trained on a sample of the texts and measured as they would serve.

What hashed n-grams, static embeddings and the text CNN cost depends on the words of the texts (their tables) and on
what they learnt (their exported precision), so they are not predicted from a shape: they are made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from stillhouse.distill.architecture.encoder_graph import latency_ms
from stillhouse.distill.architecture.footprint import memory_of
from stillhouse.distill.architecture.quality import Trained, learning_curve, learnt, sample_of
from stillhouse.distill.data import LabelledText
from stillhouse.distill.export import export
from stillhouse.models.features import MODEL_FILE
from stillhouse.tasks.students import Architecture, StudentCandidate

NAMES: Final[dict[Architecture, str]] = {
    "hashed_ngrams": "hashed n-grams",
    "static_embeddings": "static embeddings",
    "text_cnn": "text CNN (depthwise-separable)",
}
PER_TOKEN: Final = {"hashed_ngrams": 4}  # features of a text, roughly, for each of its tokens


@dataclass(frozen=True, slots=True)
class SmallStudent:
    """One of `NAMES`: its exported graph's bytes, peak memory and milliseconds, and its agreement on both sizes.

    `flops` of matrix products of one text; `memory_bytes` None where it could not be measured.
    """

    architecture: Architecture
    parameters: int
    bytes: int
    memory_bytes: int | None
    flops: int
    ms: float
    trained: tuple[Trained, ...]

    def agreement(self, texts: int) -> float:
        """Expected agreement in [0, 1] after learning from `texts`."""
        return learning_curve([(one.texts, one.agreement) for one in self.trained]).agreement(texts)


def train_small(
    rows: Sequence[LabelledText],
    *,
    architectures: Sequence[Architecture] = tuple(NAMES),
    sample: int = 800,
    length: int = 32,
    seed: int = 0,
    on_done: Callable[[Trained], None] | None = None,
) -> list[SmallStudent]:
    """Train each on a half and on the whole of `quality.sample_of`, export the latter, time texts of `length` tokens.

    They learn as `[[student]]` does by default. Raises `ModelError` where there are too few texts, or where the
    sentence encoder, whose vectors two of them start from, is not installed.
    """
    drawn = sample_of(rows, sample, seed)
    found = []
    for architecture in architectures:
        candidate, points = StudentCandidate(architecture=architecture), []
        for size in (len(drawn.learn) // 2, len(drawn.learn)):
            student, point = learnt(candidate, drawn, size, seed)
            points.append(point)
            if on_done:
                on_done(point)
        tokens = length * PER_TOKEN.get(architecture, 1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            student.module(torch.ones(1, tokens, dtype=torch.long))
        with tempfile.TemporaryDirectory() as scratch:
            export(student, Path(scratch), architecture)
            graph = Path(scratch) / MODEL_FILE
            found.append(
                SmallStudent(
                    architecture=architecture,
                    parameters=sum(weight.numel() for weight in student.module.parameters()),
                    bytes=graph.stat().st_size,
                    memory_bytes=memory_of(graph, tokens),
                    flops=counter.get_total_flops(),
                    ms=latency_ms(graph, tokens),
                    trained=tuple(points),
                )
            )
    return found
