"""Sentences of scikit-learn's documentation, and a teacher that says which part of the package each is about.

The docstrings of five subpackages are real text that is there wherever the tests run. The teacher, a logistic
regression on TF-IDF of words and pairs, learnt 1,500 sentences with their true labels; students are given its answers
to 250 others and are judged on 400 that neither saw.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from stillhouse.distill.data import LabelledText

LABELS = ("cluster", "ensemble", "linear_model", "metrics", "preprocessing")
EACH = 540  # sentences of each: the smallest has some more
OF_TEACHER, TAUGHT, SELECT, MORE, HELD = (
    slice(0, 1500),
    slice(1500, 1750),
    slice(1750, 1850),
    slice(1850, 2300),
    slice(2300, 2700),
)


@cache
def sentences() -> tuple[tuple[str, str], ...]:
    """Sentences of 8 to 30 words with the subpackage whose docstrings have them, in an order of our own."""
    found: list[tuple[str, str]] = []
    for label in LABELS:
        own: set[str] = set()
        for path in sorted((Path(sklearn.__file__).parent / label).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                    own |= set(_sentences(ast.get_docstring(node) or ""))
        chosen = np.random.default_rng(0).permutation(sorted(own))[:EACH]
        found += [(str(text), label) for text in chosen]
    return tuple(found[place] for place in np.random.default_rng(1).permutation(len(found)))


def _sentences(docstring: str) -> list[str]:
    every = (
        sentence
        for paragraph in re.split(r"\n\s*\n", docstring)
        for sentence in re.split(r"(?<=[.?!])\s+", " ".join(paragraph.split()))
    )
    return [one for one in every if 8 <= len(re.findall("[A-Za-z]+", one)) <= 30 and one.endswith(".")]


@cache
def _teacher() -> Any:
    some = sentences()[OF_TEACHER]
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=30.0, max_iter=200)
    )
    return model.fit([text for text, _ in some], [label for _, label in some])


def answered(texts: Sequence[str]) -> list[LabelledText]:
    """The teacher's answers to `texts`."""
    said: NDArray[np.float64] = _teacher().predict_proba(list(texts))
    return [
        LabelledText(
            text,
            LABELS[int(row.argmax())],
            {label: float(share) for label, share in zip(LABELS, row, strict=True) if share >= 0.001},
        )
        for text, row in zip(texts, said, strict=True)
    ]


@cache
def labelled(start: int, stop: int) -> tuple[LabelledText, ...]:
    """The teacher's answers to some sentences."""
    return tuple(answered([text for text, _ in sentences()[start:stop]]))


def of(some: slice) -> list[LabelledText]:
    """The teacher's answers to the sentences of one of the parts above."""
    return list(labelled(some.start, some.stop))


def short(some: slice, most: int) -> list[LabelledText]:
    """The first `most` of them under 110 characters: encoders read these in a fraction of the time."""
    return [one for one in of(some) if len(one.text) < 110][:most]
