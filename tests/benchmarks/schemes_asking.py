"""Rows of `schemes`: texts beyond the recorded ones, answered by the teacher: all of them, or those worth asking about.

Where a student chooses, it has learnt from 500 texts and 500 of 2,500 more are asked about.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from stillhouse.distill.augmentation.unlabelled import labelled_by_teacher
from stillhouse.distill.data import LabelledText
from stillhouse.distill.schemes.lesson import direct
from stillhouse.distill.selection import badge, certainty, k_centre, least_sure, margins
from tests.benchmarks.schemes_pool import LEARN, Made, Pool, Row, taught
from tests.benchmarks.schemes_students import NGRAM, Draw, Part

FIRST, ASKED = 500, 500  # texts that a student has learnt from before it chooses as many more
CANDIDATES = 2500

_CANDIDATES: dict[int, Part] = {}  # of the last seed: they are read once


def _unlabelled(draw: Draw, pool: Pool) -> nn.Module:
    """As many texts again, asked about where they repeat nothing that teaches, chooses or judges."""
    others = {row.text: row for row in pool.others(draw, LEARN)}

    def teacher(texts: Sequence[str]) -> list[LabelledText]:
        return [others[text] for text in texts]

    known = [row.text for row in [*draw.learn.rows, *draw.select.rows, *pool.test]]
    found = labelled_by_teacher(list(others), teacher, known)
    return _learnt(draw, [*draw.learn.rows, *found.texts])


def _asked(how: str) -> Made:
    """A student that has learnt from some texts chooses the others that the teacher is asked about."""

    def made(draw: Draw, pool: Pool) -> nn.Module:
        first, rest = list(draw.learn.rows[:FIRST]), _candidates(draw, pool)
        if how == "random":
            places = np.random.default_rng(draw.seed).permutation(len(rest.rows))[:ASKED]
        else:
            begun = Draw.of(draw.seed, draw.labels, first, draw.select.rows)
            student = begun.ngrams()
            direct(student, begun.lesson(NGRAM))
            places = _worth_asking(how, student, begun, rest)
        return _learnt(draw, first + [rest.rows[place] for place in places])

    return made


def _worth_asking(how: str, student: nn.Module, begun: Draw, rest: Part) -> NDArray[np.int64]:
    logits = rest.logits(student).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    said = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if how == "margin":
        return least_sure(margins(said), ASKED)
    if how == "entropy":
        return least_sure(certainty(said), ASKED)
    if how == "k_centre":
        return k_centre(rest.vectors(student), ASKED, begun.learn.vectors(student))
    return badge(said, rest.vectors(student), ASKED, begun.seed)


def _candidates(draw: Draw, pool: Pool) -> Part:
    if draw.seed not in _CANDIDATES:
        _CANDIDATES.clear()
        rows = [*draw.learn.rows[FIRST:], *pool.others(draw, CANDIDATES)][:CANDIDATES]
        _CANDIDATES[draw.seed] = Part.of(rows, draw.labels)
    return _CANDIDATES[draw.seed]


def _learnt(draw: Draw, rows: Sequence[LabelledText]) -> nn.Module:
    again = Draw.of(draw.seed, draw.labels, rows, draw.select.rows)
    student = again.ngrams()
    direct(student, again.lesson(NGRAM))
    return student


ROWS: dict[str, Row] = {
    "unlabelled_texts": taught("ngrams", ("direct", "hard"), _unlabelled),
    "asked_at_random": taught("ngrams", (), _asked("random")),
} | {
    f"asked_by_{how}": taught("ngrams", ("asked_at_random",), _asked(how))
    for how in ("margin", "entropy", "k_centre", "badge")
}
