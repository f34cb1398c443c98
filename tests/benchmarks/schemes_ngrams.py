"""Rows of `schemes`: one draw's texts, taught to n-grams by one teacher in other ways, and to deeper n-grams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillhouse.distill.augmentation.mixup import mixed_up
from stillhouse.distill.augmentation.token_dropout import drop_tokens
from stillhouse.distill.curriculum import Curriculum, by_loss, by_teacher_confidence
from stillhouse.distill.fitting import fit, mixed, shuffled
from stillhouse.distill.response.soft_targets import soft_target_loss
from stillhouse.distill.schedules import Schedule, Shape
from stillhouse.distill.schemes.born_again import born_again, mean_answer
from stillhouse.distill.schemes.codistillation import codistil
from stillhouse.distill.schemes.deeper_layers import from_deeper_layers
from stillhouse.distill.schemes.lesson import direct
from stillhouse.distill.schemes.mutual import mutual
from stillhouse.distill.schemes.progressive import drop_in_steps, progressive
from stillhouse.distill.training import inputs_of
from tests.benchmarks.schemes_pool import Made, Pool, Row, taught
from tests.benchmarks.schemes_students import NGRAM, Draw

DEEP = 3  # residual layers of deep n-grams
RARE_ALPHA = 0.6  # weight of the hard labels of labels with few texts, where 0.2 is all labels'


def _hard(draw: Draw, pool: Pool) -> nn.Module:
    student = draw.ngrams()
    direct(student, draw.lesson(NGRAM, soft=None))
    return student


def _direct(draw: Draw, pool: Pool) -> nn.Module:
    student = draw.ngrams()
    direct(student, draw.lesson(NGRAM))
    return student


def _mutual(draw: Draw, pool: Pool) -> nn.Module:
    students = [draw.ngrams(0), draw.ngrams(1)]
    mutual(students, draw.lesson(NGRAM))
    return students[0]


def _mutual_labels(draw: Draw, pool: Pool) -> nn.Module:
    students = [draw.ngrams(0), draw.ngrams(1)]
    mutual(students, draw.lesson(NGRAM, soft=None))
    return students[0]


def _codistillation(draw: Draw, pool: Pool) -> nn.Module:
    students = [draw.ngrams(0), draw.ngrams(1)]
    codistil(students, draw.lesson(NGRAM))
    return students[0]


def _born_again(draw: Draw, pool: Pool) -> nn.Module:
    return born_again(lambda generation: draw.ngrams(generation), draw.lesson(NGRAM), generations=3)[-1]


def _born_again_ensemble(draw: Draw, pool: Pool) -> nn.Module:
    """One more student, of the mean answer of all generations."""
    lesson = draw.lesson(NGRAM)
    generations = born_again(lambda generation: draw.ngrams(generation), lesson, generations=3)
    student = draw.ngrams(3)
    direct(student, lesson, mean_answer(generations, lesson))
    return student


def _fitted(draw: Draw, loss: Callable[[nn.Module, Tensor, float], Tensor], batches: Any = None) -> nn.Module:
    """A student of n-grams by the common loop, with another loss or other batches than direct distillation's."""
    student, lesson = draw.ngrams(), draw.lesson(NGRAM)
    chosen = lesson.select
    assert chosen is not None
    fit(
        student,
        batches or (lambda epoch, seed: shuffled(len(draw.hard), lesson.batch_size, seed)),
        lambda places, done: loss(student, places, done),
        epochs=lesson.epochs,
        rate=lesson.rate,
        seed=draw.seed,
        select=lambda: chosen(student),
        weight_decay=0.0,
    )
    return student


def _annealed(shape: Shape) -> Made:
    """Temperature from 4 to 1 and alpha from 0 to 0.5."""
    temperature, alpha = Schedule(4.0, 1.0, shape), Schedule(0.0, 0.5, shape)

    def made(draw: Draw, pool: Pool) -> nn.Module:
        def loss(student: nn.Module, places: Tensor, done: float) -> Tensor:
            logits = draw.learn.says(student, places).logits
            assert logits is not None
            return soft_target_loss(logits, draw.soft[places], draw.hard[places], temperature.at(done), alpha.at(done))

        return _fitted(draw, loss)

    return made


def _alpha_by_class(draw: Draw, pool: Pool) -> nn.Module:
    """Labels that have fewer texts than half of the labels have learn more from their hard labels."""
    lesson, counts = draw.lesson(NGRAM), torch.bincount(draw.hard, minlength=len(draw.labels))
    of_class = torch.where(counts < counts.median(), RARE_ALPHA, lesson.alpha)

    def loss(student: nn.Module, places: Tensor, done: float) -> Tensor:
        hard = draw.hard[places]
        logits = lesson.logits(student, places)
        return soft_target_loss(logits, draw.soft[places], hard, lesson.temperature, of_class[hard])

    return _fitted(draw, loss)


def _curriculum(draw: Draw, pool: Pool) -> nn.Module:
    return _easy_first(draw, by_teacher_confidence(draw.soft.numpy()))


def _curriculum_by_loss(draw: Draw, pool: Pool) -> nn.Module:
    """Easy is what another student of the same kind, directly taught, has a small loss on."""
    reference = draw.ngrams(1)
    direct(reference, draw.lesson(NGRAM))
    return _easy_first(draw, by_loss(draw.learn.logits(reference), draw.hard.numpy()))


def _easy_first(draw: Draw, difficulty: NDArray[np.float64]) -> nn.Module:
    lesson, curriculum = draw.lesson(NGRAM), Curriculum.of(difficulty, start=0.2)

    def batches(epoch: int, seed: int) -> list[Tensor]:
        made = curriculum.batches(epoch / lesson.epochs, lesson.batch_size, seed)
        return [torch.from_numpy(places) for places in made]

    return _fitted(draw, lambda student, places, done: lesson.taught(lesson.logits(student, places), places), batches)


def _token_dropout(draw: Draw, pool: Pool) -> nn.Module:
    lesson, random = draw.lesson(NGRAM), np.random.default_rng(draw.seed)

    def loss(student: nn.Module, places: Tensor, done: float) -> Tensor:
        kept = [drop_tokens(draw.learn.features[int(place)], 0.1, random) for place in places]
        return lesson.taught(student(*inputs_of(kept, tokens=False)).logits, places)

    return _fitted(draw, loss)


def _mixup(draw: Draw, pool: Pool) -> nn.Module:
    generator = torch.Generator().manual_seed(mixed(draw.seed, 0))
    lesson = draw.lesson(NGRAM)

    def loss(student: nn.Module, places: Tensor, done: float) -> Tensor:
        bags = student.bag(*inputs_of([draw.learn.features[int(place)] for place in places], tokens=False))
        bags, soft = mixed_up(bags, draw.soft[places], 0.2, generator)
        logits = student.student.head(bags)
        return soft_target_loss(logits, soft, soft.argmax(dim=1), lesson.temperature, lesson.alpha)

    return _fitted(draw, loss)


def _deep(layers: int, labels_only: bool = False) -> Made:
    def made(draw: Draw, pool: Pool) -> nn.Module:
        student = draw.deep(layers)
        direct(student, draw.lesson(NGRAM, **({"soft": None} if labels_only else {})))
        return student

    return made


def _deep_from_itself(draw: Draw, pool: Pool) -> nn.Module:
    student = draw.deep(DEEP)
    from_deeper_layers(student, draw.lesson(NGRAM), [f"layer.{place}" for place in range(DEEP - 1)])
    return student


def _deep_dropped(draw: Draw, pool: Pool) -> nn.Module:
    """3 layers, then 2, then 1, each step from the weights and answers of the one before."""
    return drop_in_steps(draw.deep(DEEP), draw.lesson(NGRAM), "layer", [[0, 1], [0]])


def _deep_line(draw: Draw, pool: Pool) -> nn.Module:
    """teacher -> 3 layers -> n-grams alone."""
    line = [draw.deep(DEEP), draw.ngrams()]
    progressive(line, draw.lesson(NGRAM))
    return line[-1]


ROWS: dict[str, Row] = {
    "hard": taught("ngrams", (), _hard),
    "direct": taught("ngrams", ("hard",), _direct),
    "mutual": taught("ngrams", ("direct", "hard"), _mutual),
    "mutual_labels_only": taught("ngrams", ("hard", "direct"), _mutual_labels),
    "codistillation": taught("ngrams", ("direct", "hard"), _codistillation),
    "born_again": taught("ngrams", ("direct", "hard"), _born_again),
    "born_again_ensemble": taught("ngrams", ("direct", "hard"), _born_again_ensemble),
    "alpha_by_class": taught("ngrams", ("direct", "hard"), _alpha_by_class),
    "annealed": taught("ngrams", ("direct", "hard"), _annealed("linear")),
    "annealed_cosine": taught("ngrams", ("direct", "hard"), _annealed("cosine")),
    "curriculum": taught("ngrams", ("direct", "hard"), _curriculum),
    "curriculum_by_loss": taught("ngrams", ("direct", "hard"), _curriculum_by_loss),
    "token_dropout": taught("ngrams", ("direct", "hard"), _token_dropout),
    "mixup": taught("ngrams", ("direct", "hard"), _mixup),
    "ngrams_of_deep_assistant": taught("ngrams", ("direct", "hard"), _deep_line),
    "deep3_hard": taught("ngrams", (), _deep(DEEP, labels_only=True)),
    "deep3_direct": taught("ngrams", ("deep3_hard",), _deep(DEEP)),
    "deep3_from_deeper_layers": taught("ngrams", ("deep3_direct", "deep3_hard"), _deep_from_itself),
    "deep1_direct": taught("ngrams", (), _deep(1)),
    "deep1_dropped_in_steps": taught("ngrams", ("deep1_direct",), _deep_dropped),
}
