"""An audit counts as agreeing where the task's comparator says so, and not where the comparator itself fails."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from services.router.answering import Answering
from services.router.spending import Spending
from stillhouse.bus.metering import Meter
from stillhouse.bus.spending import Accounts
from stillhouse.events import Answer
from stillhouse.tasks import StudentCandidate, Task, Teacher
from stillhouse.tasks.comparators import Comparison

TASK = Task(
    name="t",
    labels=("a", "b"),
    teacher=Teacher(seed="seed.jsonl", usd_per_call=0.0),
    students=(StudentCandidate(architecture="hashed_ngrams"),),
)


def fails(student: str, teacher: str) -> float:
    raise KeyError("a user's own mistake")


@pytest.mark.parametrize(
    ("compare", "expected"),
    [
        (None, False),
        (Comparison(lambda student, teacher: float(student.lower() == teacher.lower())), True),
        (Comparison(lambda student, teacher: 0.7, at_least=0.8), False),
        (Comparison(fails), False),
    ],
)
async def test_what_counts_as_the_same_answer(compare, expected) -> None:
    comparisons = {TASK.key: compare} if compare is not None else {}
    tasks = {TASK.key: TASK}
    answering = Answering(
        tasks,
        {},
        lambda key: None,
        lambda route: None,
        Spending(tasks, Accounts(Redis(), lambda *_: 0.0, lambda: None)),  # never asked: the task has no limit
        Meter("routing", tasks),
        comparisons,
    )
    said, meant = (Answer(output=text, confidence=0.9, model="m", latency_ms=1.0) for text in ("Paris", "paris"))
    assert await answering.same(TASK, said, meant) is expected
