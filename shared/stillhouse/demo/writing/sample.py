"""An authored sample of a format conversion: a line of an order to JSON. A grammar made both."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

TITLES: Final = (
    "Blue Harbour", "The Ninth Kite", "Paper Foxes", "Salt and Thunder", "Moon Bakery", "Iron Lullaby",
    "Quiet Giants", "Tram to Nowhere", "Red Umbrella", "Clockwork Koi", "The Last Stationmaster", "Winter Arcade",
    "Ash Garden", "Two Left Shoes", "Lantern Street", "Night School of Magic", "Orbit Nine", "The Tea Duellist",
    "Violet Machine", "Ghost of Pier Seven",
)  # fmt: skip
NUMBERS: Final = {1: ("one copy", "a copy", "1"), 2: ("two copies", "2", "a pair"), 3: ("three copies", "3"),
                  4: ("four copies", "4"), 5: ("five copies", "5"), 10: ("ten copies", "10")}  # fmt: skip
OPENINGS: Final = ("Please send me", "I would like", "Could I get", "We need", "Put aside", "Order", "Can you post me")
EXPRESS: Final = ("by express", "as fast as you can", "with express delivery")
STANDARD: Final = ("no hurry", "with normal delivery", "by standard post")
PICK_UP: Final = ("I will pick it up in the shop", "to be collected", "I come by for it")
GIFT: Final = ("It is a gift.", "Gift wrap it, please.", "Wrapped as a present.")
CLOSINGS: Final = ("Thanks!", "Thank you.", "Best wishes", "", "", "")


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer. `group` keeps what shares an answer on one side of every split."""

    input: str
    output: str
    group: str


def generate(seed: int) -> Iterator[Pair]:
    """Orders without end, each text once."""
    rng, seen = random.Random(seed), set[str]()
    while True:
        title, volume, count = rng.choice(TITLES), rng.randint(1, 30), rng.choice(tuple(NUMBERS))
        delivery, words = rng.choice((("express", EXPRESS), ("standard", STANDARD), ("pick-up", PICK_UP)))
        gift = rng.random() < 0.3
        named = rng.choice((f"{title} {volume}", f"{title}, volume {volume}", f"volume {volume} of {title}"))
        line = f"{rng.choice(OPENINGS)} {rng.choice(NUMBERS[count])} of {named}, {rng.choice(words)}."
        text = " ".join(part for part in (line, rng.choice(GIFT) if gift else "", rng.choice(CLOSINGS)) if part)
        if text in seen:
            continue
        seen.add(text)
        said = {"title": title, "volume": volume, "count": count, "delivery": delivery, "gift": gift}
        output = json.dumps(said)
        yield Pair(text, output, output)
