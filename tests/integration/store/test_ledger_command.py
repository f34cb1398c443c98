"""`stillhouse ledger` on a store, as typed; no platform runs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from stillhouse.cli import app
from stillhouse.store import Store
from tests.integration.store.rows import entry

TASK_FILE = """
[task]
name = "a"
labels = ["x", "y"]
[teacher]
seed = "seed.jsonl"
usd_per_call = 0.002
price_source = "a list"
[[student]]
architecture = "hashed_ngrams"
[budget]
usd_per_cpu_hour = 0.36
"""


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "a.toml").write_text(TASK_FILE)
    (tmp_path / "tasks" / "seed.jsonl").write_text('{"text": "t", "label": "x"}\n')
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STILLHOUSE_TASKS", str(tmp_path / "tasks"))
    return lambda *arguments: CliRunner().invoke(app, ["ledger", *arguments])


@pytest.fixture
def filled(tmp_path):
    store = Store(tmp_path / "home" / "store")
    rows = [replace(entry(i), student_cpu_ms=0.5) for i in range(3)] + [entry(9, task="b")]
    rows.append(replace(entry(5), kind="training", served_by=None, usd=0.003, teacher_usd=0.0))
    rows.append(replace(entry(6, task="c"), tenant="other"))
    store.append_ledger(rows)


def test_json_holds_the_sums_of_each_task(invoke, filled) -> None:
    a, b = json.loads(invoke("--json").stdout)
    assert (a["task"], b["task"]) == ("default/a", "default/b")
    assert (a["requests"], a["served_by"]["student"]) == (3, 3)
    assert a["net_saving_usd"] == pytest.approx(0.006 - 0.003 - 0.003)
    assert a["cost_per_1k"]["net"] == pytest.approx(2.0)
    assert a["cost_per_1k"]["student_cpu"] == pytest.approx(0.5 / 3_600_000 * 0.36 * 1000)
    assert a["teacher_price"] == {"usd_per_call": 0.002, "source": "a list"}
    assert "teacher_price" not in b
    (only,) = json.loads(invoke("--task", "b", "--json").stdout)
    assert only["task"] == "default/b"
    (only,) = json.loads(invoke("--tenant", "other", "--json").stdout)
    assert only["task"] == "other/c"


def test_the_table_says_where_prices_come_from(invoke, filled) -> None:
    done = invoke("--task", "a")
    assert done.exit_code == 0
    header, row, note = done.stdout.strip().splitlines()
    assert header.split()[:3] == ["task", "requests", "by"]
    assert row.split()[:4] == ["default/a", "3", "100.0", "%"]
    said = "the teacher's price is 0.002 USD per call (a list); CPU time at 0.36 USD an hour; limit: none."
    assert note == f"default/a: {said}"


def test_an_empty_home_stays_empty(invoke, tmp_path) -> None:
    done = invoke()
    assert done.exit_code == 0
    assert "Nothing is in the ledger of" in done.stdout
    assert json.loads(invoke("--json").stdout) == []
    assert not (tmp_path / "home").exists()


def test_by_day_and_by_tenant(invoke, filled) -> None:
    days = json.loads(invoke("--by", "day", "--json").stdout)
    assert [(row["task"], row["day"]) for row in days] == [("default/a", "2026-01-01"), ("default/b", "2026-01-01")]
    tenants = json.loads(invoke("--by", "tenant", "--json").stdout)
    assert [(row["tenant"], row["requests"]) for row in tenants] == [("default", 4), ("other", 1)]


def test_savings_have_an_interval_where_audits_measured_the_teacher(invoke, tmp_path) -> None:
    rows = [replace(entry(i), usd=0.0) for i in range(100)]
    costs = [0.002 if i % 10 else 0.02 for i in range(40)]
    rows += [
        replace(entry(200 + i), kind="audit", usd=usd, teacher_usd=0.0, pi=0.4, sampled_teacher_usd=usd)
        for i, usd in enumerate(costs)
    ]
    Store(tmp_path / "home" / "store").append_ledger(rows)
    (a,) = json.loads(invoke("--json").stdout)
    assert a["sampled"]["estimate"] == pytest.approx(100 * sum(costs) / 40)
    assert a["net"]["lower"] < a["net"]["estimate"] < a["net"]["upper"]
    shown = invoke().stdout
    assert "The interval is for what the teacher would have cost where the student answered" in shown


def test_explain_tells_it_in_words_and_refuses_what_is_no_day(invoke, filled) -> None:
    done = invoke("explain", "a", "--json")
    (line,) = json.loads(done.stdout)
    assert (line["task"], line["kind"]) == ("default/a", "spending")
    assert "3 requests answered, 100% of them by the student" in line["text"]
    assert invoke("explain", "a", "--day", "2025-01-01").stdout.startswith("There is nothing to explain")
    refused = invoke("explain", "--day", "today")
    assert refused.exit_code == 1
    assert refused.stderr == "--day is 'today'; write a date such as 2026-11-23.\n"
