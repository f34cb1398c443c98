"""The price book: what holds when, and one sentence for each mistake."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from stillhouse.economics.tokens import token_usd
from stillhouse.tasks import TaskFileError, load_tasks
from tests.unit.trainer.tasks import make_task

BOOK = """
[[price]]
valid_from = 2026-03-01
source = "second contract"
[price.usd_per_call]
"default/a" = 0.004

[[price]]
valid_from = 2026-01-01
source = "first contract"
usd_per_cpu_hour = 0.04
usd_per_gpu_hour = 3.0
usd_per_human_hour = 60.0
"""
TASK = """
[task]
name = "a"
labels = ["x", "y"]
[teacher]
seed = "seed.jsonl"
usd_per_call = 0.002
[[student]]
architecture = "hashed_ngrams"
"""


def at(month: int, day: int = 1) -> datetime:
    return datetime(2026, month, day, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.toml").write_text(TASK)
    (tmp_path / "seed.jsonl").write_text("")
    return tmp_path


def test_prices_hold_from_their_date_until_they_are_named_again(folder) -> None:
    (folder / "prices.toml").write_text(BOOK)
    task = load_tasks(folder)["default/a"]
    before = at(3) - timedelta(seconds=1)
    assert (task.usd_per_call(before), task.usd_per_call(at(3))) == (0.002, 0.004)
    assert task.usd_per_cpu_hour(at(1) - timedelta(days=1)) == 0.05, "what the task file declares"
    assert task.usd_per_cpu_hour(at(4)) == 0.04
    assert task.usd_of(at(2), gpu_seconds=60.0, human_minutes=30.0) == pytest.approx(0.05 + 30.0)
    assert task.prices.usd("usd_per_gb_month", at(4)) is None
    priced = task.priced(at(4))
    assert (priced.teacher.usd_per_call, priced.budget.usd_per_cpu_hour) == (0.004, 0.04)
    assert priced.model_copy(update={"teacher": task.teacher, "budget": task.budget}) == task


def test_without_a_book_the_task_file_holds(folder) -> None:
    task = load_tasks(folder)["default/a"]
    assert (task.usd_per_call(at(1)), task.usd_per_cpu_hour(at(1)), task.usd_of(at(1), 9.0, 9.0)) == (0.002, 0.05, 0.0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[price]]\nvalid_from = 2026-01-01\nusd_per_cpu = 1", r"prices.toml: usd_per_cpu: Extra inputs"),
        ("[[price]]\nvalid_from = 2026-01-01T00:00:00", r"valid_from: a time without offset; write a date, or add Z"),
        (
            "[[price]]\nvalid_from = 2026-01-01\n[price.usd_per_call]\na = 1.0",
            r"'a' names no task; write <tenant>/<task>",
        ),
        ("[[price]]\nvalid_from = 2026-01-01\n[price.usd_per_call]\n'b/a' = -1.0", r"'b/a' costs -1.0"),
        ("price = 3", r"holds \[\[price\]\] tables and nothing else"),
        ("[[price]", r"not valid TOML"),
    ],
)
def test_a_mistake_is_named(folder, text, sentence) -> None:
    (folder / "prices.toml").write_text(text)
    with pytest.raises(TaskFileError, match=sentence):
        load_tasks(folder)


def test_the_book_travels_with_a_task_into_jobs() -> None:
    task = make_task(prices={"entries": [{"valid_from": "2026-01-01T00:00:00Z", "usd_per_cpu_hour": 1.0}]})
    again = type(task).model_validate_json(task.model_dump_json())
    assert again.usd_per_cpu_hour(at(2)) == 1.0


def test_an_adjudicators_tokens_cost_what_the_list_says() -> None:
    assert token_usd("openai:gpt-4o-mini", 1_000_000, 0) == pytest.approx(0.15)
    assert token_usd("openai:gpt-4o-mini", 0, 1_000_000) == pytest.approx(0.60)
    with pytest.raises(ValueError, match="knows no model 'gpt-none' of 'openai'"):
        token_usd("openai:gpt-none", 1, 1)
    adjudicator = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "price_model": "openai:gpt-4o-mini"}
    teacher = {"seed": "s", "usd_per_call": 0.002, "adjudicator": adjudicator}
    task = make_task(teacher=teacher)
    assert task.most_usd(at(1)) == pytest.approx(0.002 + 2 * (20_000 * 0.15e-6 + 100 * 0.6e-6))
    with pytest.raises(ValueError, match="knows no model"):
        make_task(teacher=teacher | {"adjudicator": adjudicator | {"price_model": "openai:gpt-none"}})
