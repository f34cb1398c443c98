"""Rows of `schemes`: deep n-grams whose linear layers compute in few bits, with and without learning to (QAT).

Weights have 2 `levels` + 1 values, a scale a row; activations have 8 bits. Learning to be rounded takes two epochs
more, so `longer` takes as many steps without rounding.
"""

from __future__ import annotations

import time

import torch

from stillhouse.distill.fitting import mixed, shuffled
from stillhouse.distill.quantisation_aware import rounded, train_rounded
from stillhouse.distill.schemes.lesson import direct
from stillhouse.distill.training import inputs_of
from tests.benchmarks.schemes_ngrams import DEEP
from tests.benchmarks.schemes_pool import Pool, Row, Run, judged
from tests.benchmarks.schemes_students import NGRAM, Draw

MORE, MORE_RATE = 2, 1e-3  # epochs after direct distillation, and Adam's rate in them


def _few_bits(how: str, levels: int) -> Run:
    """Direct distillation, then rounding: at once, after more steps without it (`longer`), or with it (`qat`)."""

    def run(draw: Draw, pool: Pool) -> dict[str, float]:
        torch.set_num_threads(1)
        cpu = time.process_time()
        student, lesson = draw.deep(DEEP), draw.lesson(NGRAM)
        direct(student, lesson)
        steps = [places for epoch in range(MORE) for places in shuffled(len(draw.hard), 64, mixed(draw.seed, epoch))]
        if how == "qat":
            inputs = (inputs_of([draw.learn.features[int(i)] for i in places], tokens=False) for places in steps)
            batches = zip(inputs, steps, strict=True)
            student.train()
            train_rounded(
                student,
                batches,
                lambda said, places: lesson.taught(said.logits, places),
                learning_rate=MORE_RATE,
                levels=levels,
            )
        elif how == "longer":
            optimizer = torch.optim.Adam(student.parameters(), lr=MORE_RATE)
            for places in steps:
                optimizer.zero_grad()
                lesson.taught(lesson.logits(student, places), places).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        spent = time.process_time() - cpu
        with rounded(student, levels):
            return judged(student, pool) | {"cpu_s": spent}

    return run


ROWS: dict[str, Row] = {
    "deep3_4_bits": Row("ngrams", ("deep3_direct",), _few_bits("as it is", 7)),
    "deep3_4_bits_longer": Row("ngrams", ("deep3_4_bits",), _few_bits("longer", 7)),
    "deep3_4_bits_qat": Row("ngrams", ("deep3_4_bits_longer", "deep3_4_bits"), _few_bits("qat", 7)),
    "deep3_2_bits": Row("ngrams", ("deep3_direct",), _few_bits("as it is", 1)),
    "deep3_2_bits_longer": Row("ngrams", ("deep3_2_bits",), _few_bits("longer", 1)),
    "deep3_2_bits_qat": Row("ngrams", ("deep3_2_bits_longer", "deep3_2_bits"), _few_bits("qat", 1)),
}
