"""Customer messages of the manga shop, generated: a sample for the demo, and said to be one.

A message is a core that asks for something (`phrases.CORES`), sometimes unclear, with openings, asides and closings
around it, and typed the way people type: small letters, missing punctuation, slips of the keyboard.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from stillhouse.demo.phrases import (
    ASIDES,
    CLOSINGS,
    CORES,
    DOMAINS,
    ESCALATIONS,
    OPENINGS,
    SLOTS,
    UNCLEAR,
    WEIGHTS,
)

LABELS: Final = tuple(WEIGHTS)

# Shares of messages. Unclear ones keep students from imitating the teacher perfectly, as real ones do.
UNCLEAR_SHARE: Final = 0.015
ESCALATION_SHARE: Final = 0.01
TYPO_SHARE: Final = 0.08

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Message:
    """One labelled message. `group` is its domain, or its label where the data has no domains."""

    text: str
    label: str
    group: str


def generate(seed: int, labels: Sequence[str] = LABELS, escalations: float = ESCALATION_SHARE) -> Iterator[Message]:
    """Distinct messages with `labels`, for ever, in random order with the shop's weights; one seed, one sequence.

    `escalations` is the share that an always-escalate rule of the example task catches; their label is `human_agent`.
    There are millions of messages, but no end is checked for: ask for tens of thousands.
    """
    rng = random.Random(seed)
    weights = [WEIGHTS[label] for label in labels]
    seen: set[str] = set()
    while True:
        message = _one(rng, rng.choices(labels, weights)[0], set(labels), escalations)
        key = " ".join(re.findall(r"\w+", message.text.casefold()))
        if key not in seen:
            seen.add(key)
            yield message


def domain_of(label: str) -> str:
    """The domain that `label` belongs to."""
    return next(domain for domain, labels in DOMAINS.items() if label in labels)


def _one(rng: random.Random, label: str, allowed: set[str], escalations: float) -> Message:
    if rng.random() < escalations:
        label = "human_agent"
        core = rng.choice(ESCALATIONS[rng.choice(("fraud", "fraud", "legal", "legal", "self-harm"))])
        return Message(_written(rng, core, typos=False), label, domain_of(label))
    core = rng.choice(CORES[label])
    if rng.random() < UNCLEAR_SHARE:
        fitting = [text for text, meant in UNCLEAR if label in meant and allowed.issuperset(meant)]
        core = rng.choice(fitting) if fitting else core
    return Message(_written(rng, core), label, domain_of(label))


def _written(rng: random.Random, core: str, *, typos: bool = True) -> str:
    sentence = _fill(rng, core)
    sentence = sentence[0].upper() + sentence[1:]
    question = sentence.split()[0].lower() in _ASKING
    parts = [sentence.rstrip("?") + ("?" if question else rng.choice((".", ".", "!", "")))]
    if rng.random() < 0.12:
        aside = _fill(rng, rng.choice(ASIDES))
        parts.insert(rng.randrange(2), aside[0].upper() + aside[1:])
    if rng.random() < 0.35:
        parts.insert(0, rng.choice(OPENINGS).capitalize() + rng.choice((",", "!", ".")))
    if rng.random() < 0.3:
        parts.append(_fill(rng, rng.choice(CLOSINGS)))
    text = " ".join(parts)
    if typos and rng.random() < TYPO_SHARE:
        text = _mistyped(rng, text)
    style = rng.random()
    if style < 0.4:
        text = text.lower()
    if style < 0.2:
        text = re.sub(r"[.,!?]+(?=\s|$)", "", text)
    elif style > 0.98:
        text = text.upper()
    return text


_ASKING: Final = frozenset(
    {"where", "when", "has", "is", "could", "did", "how", "any", "what's", "what", "will", "can", "do", "does", "may"}
    | {"why", "which", "your"}
)


def _fill(rng: random.Random, template: str) -> str:
    def value(slot: re.Match[str]) -> str:
        return _slot(rng, slot.group(1))

    return _SLOT.sub(value, template)


def _slot(rng: random.Random, name: str) -> str:
    match name:
        case "order":
            number = rng.randrange(10_000, 100_000)
            return rng.choice((f"order {number}", f"my order #{number}", f"order no. {number}", f"MS-{number}"))
        case "vol":
            return f"{rng.choice(('volume', 'vol.', 'vol', 'book'))} {rng.randrange(1, 48)}"
        case "item" | "other":
            title = rng.choice(SLOTS["title"])
            named = f"{title} {_slot(rng, 'vol')}" if rng.random() < 0.5 else f"the {title} {rng.choice(SLOTS['kind'])}"
            return f"my {title} {rng.choice(SLOTS['kind'])}" if rng.random() < 0.15 else named
        case "other_title":
            return rng.choice(SLOTS["title"])
        case "amount":
            return f"{rng.choice(('$', '€', '£'))}{rng.randrange(5, 190)}{rng.choice(('', '.90', '.50'))}"
        case "days":
            return str(rng.randrange(2, 31))
        case "age":
            return str(rng.randrange(7, 18))
        case "email":
            host = rng.choice(("example.com", "example.org", "mail.example"))
            return f"{rng.choice(SLOTS['name']).lower()}.{rng.choice(SLOTS['city']).lower()}{rng.randrange(100)}@{host}"
        case "phone":
            return f"+44 20 7946 0{rng.randrange(100, 1000)}"  # a range that Ofcom keeps for fiction
        case _:
            return rng.choice(SLOTS[name])


def _mistyped(rng: random.Random, text: str) -> str:
    """One or two slips: neighbouring letters swapped, a letter lost or doubled. Numbers stay as they are."""
    for _ in range(rng.choice((1, 1, 2))):
        places = [i for i in range(len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
        i = rng.choice(places)
        slip = rng.choice((text[i + 1] + text[i], text[i], text[i] + text[i] + text[i + 1]))
        text = text[:i] + slip + text[i + 2 :]
    return text
