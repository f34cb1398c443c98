"""The price of the store's bytes: once a day, by the book, shared out by examples."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.observer.recording import cost_entry
from services.observer.storage import storage_costs
from stillhouse.events import CostIncurred
from stillhouse.tasks import Task
from tests.unit.trainer.tasks import make_task

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BOOK = {"entries": [{"valid_from": "2026-01-01T00:00:00Z", "usd_per_gb_month": 30.0, "usd_per_human_hour": 60.0}]}


class FakeStore:
    def __init__(self, root, counts: dict[str, int]) -> None:
        self.root = root
        self._counts = counts

    def count_examples(self, task_key: str) -> int:
        return self._counts[task_key]


@pytest.fixture
def tasks() -> dict[str, Task]:
    return {task.key: task for task in (make_task(name=name, prices=BOOK) for name in ("a", "b"))}


def test_a_day_costs_the_same_however_often_it_is_asked_for(tmp_path, tasks) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "data").write_bytes(b"0" * 1_000_000)
    store = FakeStore(tmp_path, {"default/a": 2, "default/b": 0})
    first, again = storage_costs(store, tasks, NOON), storage_costs(store, tasks, NOON + timedelta(hours=11))
    assert [(event.id, event.time) for event in first] == [(event.id, event.time) for event in again]
    # 0.001 GB at 30 USD for a month of 30 days
    assert [event.usd for event in first] == pytest.approx([0.00075, 0.00025])
    tomorrow = storage_costs(store, tasks, NOON + timedelta(days=1))
    assert {event.id for event in tomorrow}.isdisjoint(event.id for event in first)


def test_without_a_price_there_is_no_cost(tmp_path) -> None:
    task = make_task()
    assert storage_costs(FakeStore(tmp_path, {task.key: 1}), {task.key: task}, NOON) == []


def test_what_was_measured_without_an_amount_is_priced_by_the_book(tasks) -> None:
    minutes = CostIncurred(task="a", cause_id="c", kind="gate", usd=0.0, human_minutes=5.0, time=NOON)
    assert cost_entry(minutes, tasks["default/a"]).usd == pytest.approx(5.0)
    assert cost_entry(minutes.model_copy(update={"usd": 2.0}), tasks["default/a"]).usd == 2.0
    assert cost_entry(minutes, None).usd == 0.0
