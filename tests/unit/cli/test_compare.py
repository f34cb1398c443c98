"""`stillhouse students compare`: from gates' outcomes, from a file, and one sentence for what cannot be compared."""

from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

from stillhouse.cli import app
from stillhouse.cli.labelled import read_labelled


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda *arguments: CliRunner().invoke(app, ["students", *map(str, arguments)])


def gate(home, student: str, said: dict[str, str], task: str = "t") -> None:
    """What an offline gate leaves of a student that said `said` about cases whose teacher says `yes`."""
    folder = home / "jobs" / f"gate-{student}"
    folder.mkdir(parents=True)
    outcomes = [
        {"case_id": case, "label": label, "teacher": "yes", "confidence": 0.9, "agrees": None, "group": case[0]}
        for case, label in said.items()
    ]
    (folder / "outcomes.json").write_text(json.dumps(outcomes))
    (folder / "job.json").write_text(
        json.dumps({"student": {"student_id": student, "task": task, "tenant": "default"}})
    )


def test_students_are_compared_on_what_both_gates_judged(invoke, tmp_path) -> None:
    cases = [f"{'g' if i < 40 else 'h'}{i}" for i in range(80)]
    gate(tmp_path / "home", "one-1", {case: "yes" for case in cases} | {"only-one": "no"})
    gate(
        tmp_path / "home", "two-1", {case: "no" if case[0] == "g" and i < 30 else "yes" for i, case in enumerate(cases)}
    )
    done = invoke("compare", "one", "two-1", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["a"], found["b"], found["n"]) == ("one-1", "two-1", 80)
    assert (found["only_a"], found["only_b"], found["both"]) == (30, 0, 50)
    assert found["difference"] == pytest.approx(30 / 80)
    slices = {one["slice"]: one for one in found["slices"]}
    assert slices["group g"]["only_a"] == 30
    assert slices["group h"]["p_value_adjusted"] == 1.0
    assert len(found["failures"]["only_a_right"]) == 5
    told = invoke("compare", "one-1", "two-1", "--failures", 1).stdout
    assert "A agrees more with the teacher" in told
    assert "Only A is right: 30 cases" in told


def test_what_cannot_be_compared_gets_a_sentence(invoke, tmp_path) -> None:
    home = tmp_path / "home"
    gate(home, "one-1", {"a": "yes"})
    gate(home, "one-2", {"b": "yes"})
    gate(home, "other", {"a": "yes"}, task="u")
    for arguments, why in (
        (("one-1", "nobody"), "no gate"),
        (("one-1", "one"), "begins the ids of 2 students"),
        (("one-1", "other"), "students of two tasks"),
        (("one-1", "one-2"), "no case in common"),
        (("one-1", "one-2", "--data", tmp_path / "none.jsonl"), "no such file"),
    ):
        done = invoke("compare", *arguments)
        assert done.exit_code == 1
        assert why in done.stderr
        assert done.stderr.count("\n") == 1


def test_students_alone_is_still_the_list(invoke) -> None:
    assert "compare" in invoke("--help").stdout
    for arguments in ((), ("--json",), ("--task", "t"), ("show",)):
        done = invoke(*arguments)
        assert done.exit_code == 1
        assert "No broker" in done.stderr


def test_labelled_files_are_read_in_each_format(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"input": "x", "output": "1", "distribution": {"1": 0.8}}\n\n{"text": "y", "label": "2", "teacher": "3"}\n'
    )
    rows = read_labelled(tmp_path / "a.jsonl")
    assert [(row.text, row.answer, row.distribution) for row in rows] == [("x", "1", {"1": 0.8}), ("y", "3", {})]
    with (tmp_path / "test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label", "domain"], ["one, two", "a", "d"]])
    assert read_labelled(tmp_path)[-1].split == "test"
    assert read_labelled(tmp_path / "test.csv")[0].group == "d"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"text": "x"}', "line 1: needs text or input, and teacher or output or label"),
        ("[1]", "line 1: not a JSON object"),
        ('{"text": "x", "label": "a", "distribution": [1]}', "line 1: distribution"),
        ("", "holds no rows"),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path, content, why) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ValueError, match=why):
        read_labelled(tmp_path / "a.jsonl")
