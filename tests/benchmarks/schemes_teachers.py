"""Rows of `schemes`: one student of five teachers, each a head fitted on five true labels a label."""

from __future__ import annotations

import numpy as np
from torch import nn

from stillhouse.distill.data import LabelledText
from stillhouse.distill.schemes.ensembles import (
    averaged,
    by_class,
    by_confidence,
    by_validation,
    class_weights,
    validation_weights,
)
from stillhouse.distill.schemes.lesson import direct
from tests.benchmarks.schemes_pool import Made, Pool, Row, taught
from tests.benchmarks.schemes_students import NGRAM, Draw


def _of_teachers(how: str) -> Made:
    """One student of five teachers; what chooses is labelled by them too, and 300 true labels weigh them."""

    def made(draw: Draw, pool: Pool) -> nn.Module:
        said = pool.teachers([row.text for row in draw.learn.rows])
        weighing = pool.teachers([row.text for row in draw.select.rows])
        index = {label: place for place, label in enumerate(draw.labels)}
        truth = np.array([index[pool.gold[row.text]] for row in draw.select.rows])
        if how == "single":
            soft, choosing = said[0], weighing[0]
        elif how == "confidence":
            soft, choosing = by_confidence(said), by_confidence(weighing)
        elif how == "validation":
            weights = validation_weights(weighing, truth)
            soft, choosing = by_validation(said, weights), by_validation(weighing, weights)
        elif how == "class":
            of_class = class_weights(weighing, truth)
            soft, choosing = by_class(said, of_class), by_class(weighing, of_class)
        else:
            soft, choosing = averaged(said), averaged(weighing)
        learn, select = (
            [
                LabelledText(
                    row.text, draw.labels[int(one.argmax())], dict(zip(draw.labels, one.tolist(), strict=True))
                )
                for row, one in zip(rows, answers, strict=True)
            ]
            for rows, answers in ((draw.learn.rows, soft), (draw.select.rows, choosing))
        )
        again = Draw.of(draw.seed, draw.labels, learn, select)
        student = again.ngrams()
        direct(student, again.lesson(NGRAM, **({"soft": None} if how == "labels" else {})))
        return student

    return made


ROWS: dict[str, Row] = {
    "one_teacher": taught("ngrams", (), _of_teachers("single")),
    "five_teachers_labels": taught("ngrams", ("one_teacher",), _of_teachers("labels")),
    "five_teachers_averaged": taught("ngrams", ("one_teacher", "five_teachers_labels"), _of_teachers("averaged")),
} | {
    f"five_teachers_by_{how}": taught("ngrams", ("one_teacher", "five_teachers_averaged"), _of_teachers(how))
    for how in ("confidence", "validation", "class")
}
