"""Texts that the examples learn from where none are given: requests of a shop, drawn from a fixed seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from stillhouse.distill.data import LabelledText

WORDS = {
    "order": ("order", "parcel", "arrive", "late", "tracking", "courier", "delivery"),
    "refund": ("refund", "money", "charged", "cancel", "return", "twice", "bank"),
    "stock": ("stock", "available", "sold", "restock", "size", "colour", "store"),
    "account": ("password", "login", "email", "account", "locked", "reset", "name"),
}
FILLERS = ("please", "my", "the", "when", "is", "hello", "about", "i", "a", "thanks", "can", "you", "with", "help")


def made(count: int, seed: int) -> list[LabelledText]:
    """`count` texts of two telling words among fillers; one in ten has a word of another label too."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        label = str(random.choice(list(WORDS)))
        words = [*random.choice(WORDS[label], 2), *random.choice(FILLERS, int(random.integers(3, 10)))]
        if random.random() < 0.1:
            words.append(str(random.choice(WORDS[str(random.choice(list(WORDS)))])))
        random.shuffle(words)
        found.append(LabelledText(" ".join(words), label))
    return found


def read(path: Path) -> list[LabelledText]:
    """Texts of a file of JSON lines with `text` and `label`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [LabelledText(str(row["text"]), str(row["label"])) for row in map(json.loads, filter(str.strip, lines))]
