"""Comparators: when a student's answer counts as the teacher's. A file for each kind; `exact` is for labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.tasks.comparators.comparison import Comparison
from stillhouse.tasks.comparators.settings import (
    Comparator,
    Embedding,
    Exact,
    JsonFields,
    Numeric,
    Own,
    Ranking,
    SetF1,
)

if TYPE_CHECKING:
    from stillhouse.tasks.declaration import Task

__all__ = ["Comparator", "Comparison", "Exact", "comparator_of", "comparison_of", "comparisons_of"]


def comparator_of(task: Task, home: Path | None = None) -> Comparison:
    """The comparator that `task` names. `home` holds the sentence encoder, for `embedding` alone.

    Build it once: an `embedding` loads its model and is calibrated here. ValueError in one sentence.
    """
    return comparison_of(task.gate.comparator, home)


def comparisons_of(tasks: Mapping[str, Task], home: Path) -> dict[str, Comparison]:
    """By key, those of the tasks whose answers need not be equal to be the same. ValueError in one sentence."""
    return {
        key: comparator_of(task, home) for key, task in tasks.items() if not isinstance(task.gate.comparator, Exact)
    }


def comparison_of(settings: Comparator, home: Path | None = None) -> Comparison:
    """What `settings` describe. ValueError in one sentence where it cannot be had."""
    match settings:
        case Exact():
            from stillhouse.quality.agreement import exact

            return Comparison(lambda student, teacher: float(exact(student, teacher)))
        case JsonFields():
            from stillhouse.tasks.comparators.fields import field_score

            return Comparison(lambda student, teacher: field_score(settings, student, teacher), settings.at_least)
        case Numeric():
            from stillhouse.tasks.comparators.numbers import number_score

            return Comparison(lambda student, teacher: number_score(settings, student, teacher))
        case SetF1():
            from stillhouse.tasks.comparators.items import f1

            return Comparison(f1, settings.at_least)
        case Ranking():
            from stillhouse.tasks.comparators.items import ranking_score

            return Comparison(lambda student, teacher: ranking_score(settings, student, teacher), settings.at_least)
        case Own():
            from stillhouse.tasks.comparators.own import own_score

            return Comparison(own_score(settings), settings.at_least)
        case Embedding():
            return _by_embedding(settings, home)


def _by_embedding(settings: Embedding, home: Path | None) -> Comparison:
    from stillhouse.models.encoder import SentenceEncoder, ensure_encoder
    from stillhouse.models.port import ModelError
    from stillhouse.tasks.comparators.similarity import similarity_score

    if home is None:
        raise ValueError("the embedding comparator needs a home folder to keep its encoder in")
    try:
        encoder = SentenceEncoder(ensure_encoder(home))
    except ModelError as error:
        raise ValueError(str(error)) from None
    return Comparison(*similarity_score(settings, lambda texts: encoder.encode(texts)[0]))
