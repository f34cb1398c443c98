"""`stillhouse advise` on files: what it reads, what it says, and one sentence for what it cannot read."""

from __future__ import annotations

import gzip
import json

import pytest
from typer.testing import CliRunner

from stillhouse.cli import app
from tests.unit.economics.advice.texts import classify


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STILLHOUSE_TASKS", str(tmp_path / "tasks"))
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda *arguments: CliRunner().invoke(app, ["advise", *map(str, arguments)])


def rows(n: int) -> str:
    cases = classify(n, timed=True)
    return "".join(
        json.dumps({"text": c.input, "label": c.output, "timestamp": c.time.isoformat(), "cost": 0.01}) + "\n"
        for c in cases
    )


def test_a_folder_of_files_is_read_in_order_and_advised_on(invoke, tmp_path) -> None:
    text = rows(900).splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(text[:600]))
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress("".join(text[600:]).encode()))
    done = invoke(tmp_path)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("distil  ")
    assert "student: hashed n-grams or a cut encoder" in done.stdout
    found = json.loads(invoke(tmp_path, "--json").stdout)
    assert (found["recommendation"], found["cases"], found["usd_per_call"]) == ("distil", 900, pytest.approx(0.01))
    assert found["novelty"] is not None
    assert json.loads(invoke(tmp_path, "--json", "--criticality", "high").stdout)["recommendation"] == "do not"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1]\n", "line 1: not an object; write one with a text and an answer."),
        ('{"text": "a"}\n', "line 1: needs input or text, and teacher or output or label."),
        (
            '{"text": "a", "label": "b", "time": "noon"}\n',
            "line 1: 'noon' is no time; write it as 2026-11-23T12:00:00Z.",
        ),
        ("", "holds no rows; give JSON lines with a text and an answer."),
    ],
)
def test_what_cannot_be_read_is_one_sentence(invoke, tmp_path, text, sentence) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    done = invoke(tmp_path / "x.jsonl")
    assert done.exit_code == 1
    assert done.stderr.strip().endswith(sentence)


def test_a_file_or_task_that_is_not_there(invoke, tmp_path) -> None:
    assert "no such file or folder" in invoke(tmp_path / "none.jsonl").stderr
    (tmp_path / "tasks").mkdir()
    assert "declares no task 'default/none'" in invoke("none").stderr
