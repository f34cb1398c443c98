"""`stillhouse advise TASK`: from what is recorded of a declared task, with its price, promise and rate."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from stillhouse.cli import app
from stillhouse.events import now
from stillhouse.store import Store
from tests.integration.store.rows import entry, example
from tests.integration.store.test_ledger_command import TASK_FILE
from tests.unit.economics.advice.texts import classify


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "a.toml").write_text(TASK_FILE)
    (tmp_path / "tasks" / "seed.jsonl").write_text('{"text": "t", "label": "x"}\n')
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STILLHOUSE_TASKS", str(tmp_path / "tasks"))
    return lambda *arguments: CliRunner().invoke(app, ["advise", *arguments])


def test_a_task_is_advised_on_by_its_own_terms(invoke, tmp_path) -> None:
    assert "Nothing of default/a is recorded" in invoke("a").stderr
    store, end = Store(tmp_path / "home" / "store"), now()
    cases = classify(600)
    times = [end - timedelta(minutes=600 - i) for i in range(600)]
    rows = [
        example(i, input=case.input, output=case.output, time=times[i], sample="full", provenance="teacher")
        for i, case in enumerate(cases)
    ]
    rows[0] = example(0, time=times[0], sample="full", provenance="policy")
    store.append_examples(rows)
    store.append_ledger([entry(i) for i in range(3)])
    found = json.loads(invoke("a", "--json").stdout)
    assert (found["recommendation"], found["cases"], found["usd_per_call"]) == ("distil", 600, 0.002)
    assert found["escalated"] == pytest.approx(1 / 600)
    assert found["saving_usd_per_month"] is not None
