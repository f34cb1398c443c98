"""Texts that mean the same: cosine of sentence vectors, above a threshold that labelled pairs certify."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from stillhouse.quality.thresholds import certify_fixed
from stillhouse.tasks.comparators.settings import Embedding

Encode = Callable[[Sequence[str]], ArrayLike]

GRID = np.linspace(0.0, 1.0, 201)


def similarity_score(settings: Embedding, encode: Encode) -> tuple[Callable[[str, str], float], float]:
    """The cosine of two texts (0 where it is negative), and its certified threshold. ValueError where none is.

    With confidence 1 - delta, at most the share epsilon of pairs like the labelled ones are called the same and are
    not: an agreement measured by this comparator is too high by epsilon at most.
    """
    pairs = read_pairs(settings.pairs)
    said = [cosine(encode, a, b) for a, b, _ in pairs]
    threshold = certify_fixed(said, [same for _, _, same in pairs], settings.epsilon, settings.delta, GRID)
    if threshold is None or threshold.coverage == 0.0:
        raise ValueError(
            f"{settings.pairs}: its {len(pairs)} pairs certify no similarity from which at most {settings.epsilon:.0%} "
            "of pairs are called the same wrongly; label more pairs or use another comparator"
        )
    return (lambda student, teacher: cosine(encode, student, teacher)), threshold.value


def cosine(encode: Encode, a: str, b: str) -> float:
    """Between 0 and 1; `encode` gives vectors of length 1."""
    first, second = np.asarray(encode([a, b]), dtype=np.float64)
    return float(min(1.0, max(0.0, first @ second)))


def read_pairs(path: Path) -> list[tuple[str, str, bool]]:
    """The labelled pairs of a file. ValueError that names file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            pairs.append((str(row["a"]), str(row["b"]), bool(row["same"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} line {number}: not an object with a, b and same ({error!r})") from None
    return pairs
