"""Tasks to give advice on, made by a seed."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta

from stillhouse.economics.advice import Case

T0 = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = {
    "order": "parcel tracking late arrive",
    "refund": "money back twice charged",
    "praise": "love great thanks shop",
}
FILL = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "an", "el", "or")]


def text_of(rng: random.Random, label: str) -> str:
    return " ".join([*rng.sample(WORDS[label].split(), 2), *rng.sample(FILL, 5)])


def classify(n: int, *, noise: float = 0.0, seed: int = 0, timed: bool = False) -> list[Case]:
    """Three labels, of which a share `noise` are drawn by lot."""
    rng = random.Random(seed)
    cases = []
    for i in range(n):
        label = rng.choice(list(WORDS))
        said = rng.choice(list(WORDS)) if rng.random() < noise else label
        time = T0 + timedelta(hours=i) if timed else None
        cases.append(Case(text_of(rng, label), said, time))
    return cases


def slots(n: int, seed: int = 0) -> list[Case]:
    """Two fields of few values, and one that is copied."""
    rng = random.Random(seed)
    cases = []
    for i in range(n):
        food, price = rng.choice(["thai", "french", "indian"]), rng.choice(["cheap", "dear"])
        name = f"{rng.choice(FILL)} house {i}"
        text = f"{name} is a {price} place for {food} meals by the {rng.choice(FILL)} river"
        cases.append(Case(text, json.dumps({"name": name, "food": food, "price": price})))
    return cases


def stories(n: int, seed: int = 0) -> list[Case]:
    """Answers of their own."""
    rng = random.Random(seed)
    return [Case(" ".join(rng.sample(FILL, 6)), " ".join(rng.choices(FILL, k=12)) + f" {i}") for i in range(n)]
