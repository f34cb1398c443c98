"""Rows of `schemes`: students of the encoder's lowest layers, and n-grams that such a student teaches."""

from __future__ import annotations

from torch import nn

from stillhouse.distill.schemes.deeper_layers import from_deeper_layers
from stillhouse.distill.schemes.lesson import direct
from stillhouse.distill.schemes.progressive import drop_in_steps
from tests.benchmarks.schemes_pool import Made, Pool, Row, taught
from tests.benchmarks.schemes_students import ENCODER, NGRAM, Draw

ENCODER_LEARNS = 600  # texts; a run of the encoder takes half a minute with so many

_FEWER: dict[int, Draw] = {}  # of the last seed: its states are computed once


def _fewer(draw: Draw) -> Draw:
    """The draw's first texts: what students of the encoder learn from."""
    if draw.seed not in _FEWER:
        _FEWER.clear()
        _FEWER[draw.seed] = Draw.of(draw.seed, draw.labels, draw.learn.rows[:ENCODER_LEARNS], draw.select.rows)
    return _FEWER[draw.seed]


def _encoder_hard(draw: Draw, pool: Pool) -> nn.Module:
    student, of = draw.encoder(3), _fewer(draw)
    direct(student, of.lesson(ENCODER, soft=None))
    return student


def _encoder_direct(layers: int) -> Made:
    def made(draw: Draw, pool: Pool) -> nn.Module:
        student = draw.encoder(layers)
        direct(student, _fewer(draw).lesson(ENCODER))
        return student

    return made


def _deeper(draw: Draw, pool: Pool) -> nn.Module:
    student = draw.encoder(3)
    from_deeper_layers(student, _fewer(draw).lesson(ENCODER), ["layer.0"])
    return student


def _assistant(draw: Draw, pool: Pool) -> nn.Module:
    """teacher -> encoder of 3 layers -> n-grams, which learn from what the assistant answers to all their texts."""
    assistant = _encoder_direct(3)(draw, pool)
    student, lesson = draw.ngrams(), draw.lesson(NGRAM)
    direct(student, lesson, lesson.probabilities(assistant))
    return student


def _dropped(draw: Draw, pool: Pool) -> nn.Module:
    """3 layers, then 2, from the weights and answers of the 3."""
    return drop_in_steps(draw.encoder(3), _fewer(draw).lesson(ENCODER), "layer", [[0]])


ROWS: dict[str, Row] = {
    "cut3_hard": taught("encoder", (), _encoder_hard),
    "cut3_direct": taught("encoder", ("cut3_hard",), _encoder_direct(3)),
    "cut3_deeper_layers": taught("encoder", ("cut3_direct", "cut3_hard"), _deeper),
    "ngrams_of_assistant": taught("ngrams", ("direct", "hard"), _assistant),
    "cut2_direct": taught("encoder", (), _encoder_direct(2)),
    "cut2_dropped_in_steps": taught("encoder", ("cut2_direct",), _dropped),
}
