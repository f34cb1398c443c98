"""Rows of `schemes`: n-grams that have learnt half of the labels learn the other half, and should not forget.

Every second label is old. The last epoch is kept in both parts, as there are no old texts in the second that an epoch
could be chosen on. The tie to the earlier student is on the replayed texts, without replay on the new ones. The probe
suite is the test texts of old labels.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from stillhouse.distill.data import LabelledText
from stillhouse.distill.fitting import fit, shuffled
from stillhouse.distill.replay import kl_to_previous, probe, replayed
from stillhouse.distill.schemes.lesson import direct
from tests.benchmarks.schemes_pool import Pool, Row, Run, answers, judged
from tests.benchmarks.schemes_students import NGRAM, Draw

REPLAYED = 150  # old texts beside about 600 new ones: one or two a label
KL_WEIGHT = 1.0


def _second_half(replay: bool, tie: bool) -> Run:
    def run(draw: Draw, pool: Pool) -> dict[str, float]:
        torch.set_num_threads(1)
        cpu = time.process_time()
        old = set(draw.labels[::2])
        first, second = ([row for row in draw.learn.rows if (row.label in old) == early] for early in (True, False))
        student = draw.ngrams()
        direct(student, _part(draw, first).lesson(NGRAM, select=None))
        before = copy.deepcopy(student).eval()
        again = replayed(first, REPLAYED, draw.seed) if replay else []
        tied = torch.tensor([1.0] * len(again) + [0.0 if again else 1.0] * len(second))
        _goes_on(student, before, tied if tie else None, _part(draw, [*again, *second]))
        spent = time.process_time() - cpu
        return judged(student, pool) | _of_old(before, student, pool, old) | {"cpu_s": spent}

    return run


def _goes_on(student: nn.Module, before: nn.Module, tied: Tensor | None, part: Draw) -> None:
    """The student learns `part`; `tied` [n]: how strongly it is tied to what `before` says of each text."""
    lesson = part.lesson(NGRAM, select=None)
    said = torch.from_numpy(part.learn.logits(before))

    def loss(places: Tensor, done: float) -> Tensor:
        logits = lesson.logits(student, places)
        taught = lesson.taught(logits, places)
        if tied is None or not tied[places].any():
            return taught
        return taught + KL_WEIGHT * kl_to_previous(logits, said[places], weight=tied[places])

    fit(
        student,
        lambda epoch, seed: shuffled(len(part.hard), lesson.batch_size, seed),
        loss,
        epochs=lesson.epochs,
        rate=lesson.rate,
        seed=part.seed + 1000,
        weight_decay=0.0,
    )


def _part(draw: Draw, rows: Sequence[LabelledText]) -> Draw:
    return Draw.of(draw.seed, draw.labels, rows, draw.select.rows)


def _of_old(before: nn.Module, now: nn.Module, pool: Pool, old: set[str]) -> dict[str, float]:
    """What the probe suite of old labels says, and agreement on the new ones."""
    suite = [row for row in pool.test if row.label in old]
    texts = [row.text for row in pool.test]
    was, is_now = (dict(zip(texts, answers(module, pool).tolist(), strict=True)) for module in (before, now))
    (found,) = probe(
        {"old": suite}, lambda asked: [was[one] for one in asked], lambda asked: [is_now[one] for one in asked]
    )
    new = np.array([is_now[row.text] == row.label for row in pool.test if row.label not in old])
    return {
        "old_before": found.before,
        "old": found.after,
        "new": float(new.mean()),
        "lost": found.lost,
        "gained": found.gained,
        "p_forgot": found.p_forgot,
    }


ROWS: dict[str, Row] = {
    "second_half": Row("ngrams", ("direct",), _second_half(replay=False, tie=False)),
    "second_half_replay": Row("ngrams", ("second_half", "direct"), _second_half(replay=True, tie=False)),
    "second_half_kl_to_previous": Row("ngrams", ("second_half", "direct"), _second_half(replay=False, tie=True)),
    "second_half_replay_and_kl": Row("ngrams", ("second_half_replay", "direct"), _second_half(replay=True, tie=True)),
}
