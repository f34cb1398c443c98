"""Answered requests of a live student, as tests of the label-free part need them."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

from stillhouse.events import Answer, InferenceCompleted
from tests.unit.trainer.tasks import T0

WORDS = {
    "a": ["where", "is", "my", "parcel", "order", "delivery", "late", "tracking", "number", "arrived", "lost"],
    "b": ["refund", "money", "back", "card", "charged", "twice", "invoice", "payment", "wrong", "amount"],
    "new": ["subtitle", "chapter", "panel", "vertical", "scroll", "reader", "translate", "bubble", "font", "page"],
}


def answered(
    number: int, label: str, text: str, *, student: str | None = "s1", time: datetime | None = None, **changes: Any
) -> InferenceCompleted:
    answer = Answer(
        output=label,
        confidence=0.9,
        distribution={label: 0.9, "a" if label == "b" else "b": 0.1},
        model=student or "",
        latency_ms=3.0,
    )
    fields: dict[str, Any] = {
        "id": f"completed-{student}-{number}",
        "time": time or T0 + timedelta(seconds=number),
        "task": "intents",
        "request_id": f"request-{number}",
        "input": text,
        "output": label,
        "served_by": "student",
        "reason": "student",
        "stage": "live",
        "student": answer if student else None,
        "route_version": 3,
        "cost_usd": 0.00001,
        "latency_ms": 4.0,
    }
    return InferenceCompleted.model_validate(fields | changes)


def traffic(n: int, seed: int, *, share_b: float = 0.3, new: float = 0.0, start: int = 0, **changes: Any):
    """`n` answers about two subjects; a share `new` of the texts is about something else."""
    draw = random.Random(seed)
    found = []
    for number in range(start, start + n):
        label = "b" if draw.random() < share_b else "a"
        words = WORDS["new"] if draw.random() < new else WORDS[label]
        text = " ".join(draw.choice(words) for _ in range(6))
        latency = draw.lognormvariate(1.0, 0.4)
        found.append(answered(number, label, text, **{"latency_ms": latency, **changes}))
    return found
