"""Rows of `schemes`: the same n-grams with other targets than one label of many: yes or no, several labels, a score.

All follow from the teacher's probabilities of labels. `yes_or_no`: is the text about money (of one of two domains of
`clinc150`; of other data: is its label in the first fifth)? `tags`: the words of its label's name that other names have
too. The teacher says yes where its probability is over a half, a student where its logit is over what agrees most on
the select texts; agreement is of whole sets. `score`: the teacher's probability that the text is about money; the truth
is 0 or 1. Its agreement is the correlation with the teacher's score, its accuracy the area under the ROC curve.

What a row minimises chooses its epoch too, on the select texts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.distill.data import soft_targets
from stillhouse.distill.fitting import fit, shuffled
from stillhouse.distill.response.multi_label import binary_loss, multi_label_loss
from stillhouse.distill.response.regression import bounded_score_loss, score_loss
from tests.benchmarks.schemes_pool import Pool, Row, Run
from tests.benchmarks.schemes_students import NGRAM, Draw, Ngrams, Rows

CORRELATION = "correlation"
THRESHOLDS = tuple(np.arange(-3.0, 3.1, 0.25).tolist())
SCORES = ("score_of_truth", "score_of_teacher")  # what scores of both are compared with
MONEY = ("banking", "credit_cards")
# Alpha as direct distillation has it. At T = 2 tags agreed 9 points less (seed 100, which does not judge).
TEMPERATURE, ALPHA = 1.0, 0.2

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of logits, what the teacher says and labels (or truths), [B, n]
Targets = tuple[NDArray[np.float32], NDArray[np.float32]]  # the last two of them, of all texts


def _tags(how: str, alpha: float) -> Run:
    """`yes_or_no`: one tag, `tags`: several. `alpha` 1 is hard labels alone."""

    def loss(logits: Tensor, soft: Tensor, hard: Tensor) -> Tensor:
        if logits.shape[1] == 1:
            return binary_loss(logits[:, 0], soft[:, 0], hard[:, 0], TEMPERATURE, alpha)
        return multi_label_loss(logits, soft, hard, TEMPERATURE, alpha)

    def run(draw: Draw, pool: Pool) -> dict[str, float]:
        of_label = _money(pool) if how == "yes_or_no" else _words(pool.labels)
        learnt, choosing, judging = (_of_teacher(rows, of_label, pool) for rows in _parts(draw, pool))
        student, spent = _fitted(draw, loss, (learnt, np.rint(learnt)), (choosing, np.rint(choosing)))
        tried = draw.select.logits(student)
        threshold = max(THRESHOLDS, key=lambda least: _alike(tried > least, choosing > 0.5))
        said = pool.asked.logits(student) > threshold
        truth = of_label[[pool.labels.index(label) for label in pool.truth]] > 0
        return {"agreement": _alike(said, judging > 0.5), "accuracy": _alike(said, truth), "cpu_s": spent}

    return run


def _score(loss: Loss) -> Run:
    """A student of the teacher's probability of yes; `loss` of scores, teacher and truth, each [B]."""

    def run(draw: Draw, pool: Pool) -> dict[str, float]:
        of_label = _money(pool)
        learnt, choosing, judging = (_of_teacher(rows, of_label, pool) for rows in _parts(draw, pool))
        true = [[pool.gold[row.text] for row in rows] for rows in (draw.learn.rows, draw.select.rows)]
        truths = [of_label[[pool.labels.index(label) for label in labels]] for labels in (*true, pool.truth)]
        student, spent = _fitted(
            draw,
            lambda scores, teacher, truth: loss(scores[:, 0], teacher[:, 0], truth[:, 0]),
            (learnt, truths[0]),
            (choosing, truths[1]),
        )
        said = pool.asked.logits(student)[:, 0]
        return {
            "correlation": float(np.corrcoef(said, judging[:, 0])[0, 1]),
            "accuracy": _area(said, truths[2][:, 0] > 0),
            "cpu_s": spent,
        }

    return run


def _parts(draw: Draw, pool: Pool) -> tuple[Rows, Rows, Rows]:
    return draw.learn.rows, draw.select.rows, pool.test


def _of_teacher(rows: Rows, of_label: NDArray[np.float32], pool: Pool) -> NDArray[np.float32]:
    """The teacher's probability of each tag, [n, tags]: of all labels that have it."""
    return np.asarray(np.clip(soft_targets(rows, pool.labels) @ of_label, 0.0, 1.0), dtype=np.float32)


def _alike(said: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """The share of texts whose tags are all the same."""
    return float((said == wanted).all(axis=1).mean())


def _fitted(draw: Draw, loss: Loss, learnt: Targets, choosing: Targets) -> tuple[Ngrams, float]:
    """N-grams by `loss`, and the CPU seconds it took."""
    torch.set_num_threads(1)
    cpu = time.process_time()
    soft, hard = (torch.from_numpy(one) for one in learnt)
    select_soft, select_hard = (torch.from_numpy(one) for one in choosing)
    student = Ngrams(draw.learn.features, soft.shape[1], draw.seed)

    def of(places: Tensor, done: float) -> Tensor:
        logits = draw.learn.says(student, places).logits
        assert logits is not None
        return loss(logits, soft[places], hard[places])

    fit(
        student,
        lambda epoch, seed: shuffled(len(soft), NGRAM["batch_size"], seed),
        of,
        epochs=NGRAM["epochs"],
        rate=NGRAM["rate"],
        seed=draw.seed,
        select=lambda: float(loss(torch.from_numpy(draw.select.logits(student)), select_soft, select_hard)),
        weight_decay=0.0,
    )
    return student, time.process_time() - cpu


def _money(pool: Pool) -> NDArray[np.float32]:
    """Which labels mean yes, of 0 and 1, [labels, 1]."""
    fifth = len(pool.labels) // 5
    yes = [pool.domains[label] in MONEY if pool.domains else place < fifth for place, label in enumerate(pool.labels)]
    return np.array(yes, dtype=np.float32)[:, None]


def _words(labels: tuple[str, ...]) -> NDArray[np.float32]:
    """Which words are in the name of each label, of 0 and 1, [labels, words]: those of two names or more."""
    names = [set(label.split("_")) for label in labels]
    counts = Counter(word for name in names for word in name)
    words = sorted(word for word, count in counts.items() if count > 1) or sorted(counts)
    return np.array([[word in name for word in words] for name in names], dtype=np.float32)


def _area(scores: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a right text is scored above a wrong one; a half for ties."""
    above = scores[right][:, None] - scores[~right][None, :]
    return float((above > 0).mean() + (above == 0).mean() / 2)


ROWS: dict[str, Row] = {
    "yes_or_no_hard": Row("ngrams", (), _tags("yes_or_no", 1.0)),
    "yes_or_no_distilled": Row("ngrams", ("yes_or_no_hard",), _tags("yes_or_no", ALPHA)),
    "tags_hard": Row("ngrams", (), _tags("tags", 1.0)),
    "tags_distilled": Row("ngrams", ("tags_hard",), _tags("tags", ALPHA)),
    "score_of_truth": Row("ngrams", (), _score(partial(score_loss, alpha=1.0)), CORRELATION),
    "score_of_teacher": Row("ngrams", ("score_of_truth",), _score(score_loss), CORRELATION),
    "score_of_both": Row("ngrams", SCORES, _score(partial(score_loss, alpha=0.5)), CORRELATION),
    "score_bounded": Row("ngrams", SCORES, _score(bounded_score_loss), CORRELATION),
}
