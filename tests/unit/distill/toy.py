"""A small classification task that n-grams solve, drawn from a fixed seed."""

from __future__ import annotations

import numpy as np

from stillhouse.distill.data import LabelledText

LABELS = ("order", "refund", "stock")
WORDS = {
    "order": ("order", "parcel", "arrive", "late", "tracking"),
    "refund": ("refund", "money", "back", "charged", "cancel"),
    "stock": ("stock", "volume", "available", "sold", "restock"),
}
FILLERS = ("please", "my", "the", "when", "is", "hello", "about", "i", "a", "thanks")


def texts(n: int, seed: int = 0) -> list[LabelledText]:
    """`n` labelled texts of two telling words among fillers, with soft labels."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        label = str(random.choice(LABELS))
        words = [*random.choice(WORDS[label], 2), *random.choice(FILLERS, int(random.integers(2, 9)))]
        random.shuffle(words)
        others = [other for other in LABELS if other != label]
        made.append(LabelledText(" ".join(words), label, {label: 0.9, others[0]: 0.07, others[1]: 0.03}))
    return made
