"""What kind of answer a task gives: one of few labels, a form that is filled, or a text of its own. It is measured.

- `classification`: answers repeat. At most one in ten is distinct (and no more than 2,000 are), and they are short.
- `conversion`: at least 95 of 100 answers are JSON objects, and 80 of 100 of their values are either copied from the
  request or one of a field's few values.
- `extraction`: no JSON, but 80 of 100 words of the answers stand in the requests.
- `creative`: everything else.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from stillhouse.economics.advice.case import Case
from stillhouse.store.redaction import normalise

DISTINCT: Final = 0.1
MOST_LABELS: Final = 2000
LABEL_CHARS: Final = 80
JSON_SHARE: Final = 0.95
GROUNDED: Final = 0.8
COMMON: Final = 0.01  # a value that so many of the answers have is one of a field's few

Kind = Literal["classification", "conversion", "extraction", "creative"]


@dataclass(frozen=True, slots=True)
class Form:
    """The kind, and what it was told by. `grounded`: share of values, or words, that are copied or common."""

    kind: Kind
    distinct: int
    mean_chars: float
    json: float
    grounded: float


def form_of(cases: Sequence[Case]) -> Form:
    """The form of at least one answer."""
    outputs = [case.output.strip() for case in cases]
    distinct, chars = len(set(outputs)), sum(map(len, outputs)) / len(outputs)
    objects = [(case.input, fields) for case in cases if (fields := fields_of(case.output)) is not None]
    json_share = len(objects) / len(outputs)
    if json_share >= JSON_SHARE:
        grounded = _values_grounded(objects)
        kind: Kind = "conversion" if grounded >= GROUNDED else "creative"
        return Form(kind, distinct, chars, json_share, grounded)
    grounded = _words_grounded(cases)
    if distinct <= min(MOST_LABELS, max(2, DISTINCT * len(outputs))) and chars <= LABEL_CHARS:
        return Form("classification", distinct, chars, json_share, grounded)
    return Form("extraction" if grounded >= GROUNDED else "creative", distinct, chars, json_share, grounded)


def fields_of(output: str) -> dict[str, str] | None:
    """The leaves of a JSON object by their paths; None where the answer is none."""
    try:
        value = json.loads(output)
    except ValueError:
        return None
    return dict(_leaves(value, "")) if isinstance(value, dict) else None


def _leaves(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in _leaves(part, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list):
        return [leaf for i, part in enumerate(value) for leaf in _leaves(part, f"{path}[{i}]")]
    return [(path, value if isinstance(value, str) else json.dumps(value))]


def _values_grounded(objects: Sequence[tuple[str, dict[str, str]]]) -> float:
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for _, fields in objects:
        for path, value in fields.items():
            values[path][value] += 1
    total = held = 0
    for text, fields in objects:
        plain = f" {normalise(text)} "
        for path, value in fields.items():
            total += 1
            common = values[path][value] >= max(2, COMMON * len(objects))
            held += common or f" {normalise(value)} " in plain
    return held / max(1, total)


def _words_grounded(cases: Sequence[Case]) -> float:
    total = held = 0
    for case in cases:
        known = set(normalise(case.input).split())
        words = normalise(case.output).split()
        total += len(words)
        held += sum(word in known for word in words)
    return held / max(1, total)
