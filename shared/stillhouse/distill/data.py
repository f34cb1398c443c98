"""What a student learns from: texts with the teacher's answers, as matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stillhouse.models.port import ModelError


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text with the teacher's label and its probabilities.

    `distribution` maps label to probability; entries under 0.001 are left out, and it may be empty. `weight`: how much
    the text counts among the others when a student learns.
    """

    text: str
    label: str
    distribution: dict[str, float] = field(default_factory=dict)
    weight: float = 1.0


def hard_targets(texts: Sequence[LabelledText], labels: Sequence[str]) -> NDArray[np.int64]:
    """The label of each text as its place in `labels`, int64 [n]. Raises `ModelError` for a label that is not there.

    >>> hard_targets([LabelledText("money back", "refund")], ["order", "refund"]).tolist()
    [1]
    """
    index = {label: i for i, label in enumerate(labels)}
    try:
        return np.array([index[text.label] for text in texts], dtype=np.int64)
    except KeyError as error:
        raise ModelError(f"A text is labelled {error.args[0]!r}, which is not one of the task's labels.") from None


def soft_targets(texts: Sequence[LabelledText], labels: Sequence[str]) -> NDArray[np.float32]:
    """The teacher's probabilities float32 [n, labels], every row summing to 1.

    What was left out counts as 0 and the rest is renormalised. A text without probabilities, or whose label is not its
    likeliest one (a rule, an adjudicator or a human decided), gets its label alone. Raises `ModelError` for a label
    that is not in `labels`.

    >>> asked = LabelledText("where is it", "order", {"order": 0.75, "refund": 0.25})
    >>> decided = LabelledText("money back", "refund", {"order": 0.75, "refund": 0.25})  # by a human
    >>> soft_targets([asked, decided], ["order", "refund"]).tolist()
    [[0.75, 0.25], [0.0, 1.0]]
    """
    index = {label: i for i, label in enumerate(labels)}
    hard = hard_targets(texts, labels)
    soft = np.zeros((len(texts), len(labels)), dtype=np.float32)
    for row, text in enumerate(texts):
        for label, probability in text.distribution.items():
            # A label that the task no longer has is passed over.
            if label in index and probability > 0:
                soft[row, index[label]] = probability
        if soft[row, hard[row]] < soft[row].max() or not soft[row].any():
            soft[row] = 0
            soft[row, hard[row]] = 1
    return np.asarray(soft / soft.sum(axis=1, keepdims=True), dtype=np.float32)
