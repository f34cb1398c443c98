"""`stillhouse gate evaluate` as users run it: tables, JSON, report, exit status, and a judge behind HTTP."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from stillhouse.cli import app
from stillhouse.tasks.comparators.judge import Question, RubricJudge, student_first
from stillhouse.tasks.responses import Judge
from tests.integration.validator.judge_server import MODEL, stand_in_judge

CONDITIONS = "[prices]\nteacher_usd = 0.004\nstudent_usd = 0.0005\n"


def cases_file(folder, n: int, wrong: float = 0.01, **changes):
    rng = np.random.default_rng(1)
    path = folder / "cases.jsonl"
    rows = []
    for number in range(n):
        rooms, good = int(rng.integers(2, 60)), rng.random() >= wrong
        rows.append(
            {
                "id": f"c{number}",
                "input": "How many rooms?",
                "context": f"It has {rooms} rooms.",
                "teacher": f"{rooms} rooms.",
                "student": f"{rooms if good else rooms + 1} rooms.",
                "base": "I do not know.",
                "human_winner": str(rng.choice(["student", "base", "tie"], p=[0.7, 0.1, 0.2])),
                "student_first": bool(rng.random() < 0.5),
                "preference": "tie" if good else "teacher",
                "human_preference": "tie" if good else "teacher",
                "hallucinated": not good,
            }
            | changes
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def gate(*arguments):
    return CliRunner().invoke(app, ["gate", "evaluate", *map(str, arguments)])


def test_a_good_file_passes_with_a_table_and_a_report(tmp_path) -> None:
    conditions = tmp_path / "conditions.toml"
    conditions.write_text(CONDITIONS)
    report = tmp_path / "report.html"
    result = gate(cases_file(tmp_path, 700), "--conditions", conditions, "--report", report)
    assert result.exit_code == 0, result.output
    for name in ("agreement", "preference", "win rate", "hallucination", "cost"):
        assert name in result.output
    assert "<svg" in report.read_text()
    assert "rooms" not in report.read_text()


def test_json_carries_everything_and_the_exit_status_the_verdict(tmp_path) -> None:
    result = gate(cases_file(tmp_path, 30), "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["verdict"]) == (2, "undecided")
    assert told["needs_more"] > 0
    assert told["costs_usd"] > 0
    assert len(told["conditions"]) == 5
    assert gate(cases_file(tmp_path, 300, wrong=0.5)).exit_code == 1


def test_a_declared_task_gives_floor_and_price(tmp_path) -> None:
    result = gate(cases_file(tmp_path, 30), "--task", "manga-support", "--tasks", "deploy/tasks", "--json")
    [agreement] = [one for one in json.loads(result.stdout)["conditions"] if one["name"] == "agreement"]
    assert agreement["costs_usd"] == pytest.approx(agreement["needs_more"] * 0.002)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.jsonl"], "none.jsonl cannot be read"),
        (["CASES", "--task", "nobody"], "no task default/nobody in deploy/tasks; known are default/manga-support"),
        (["CASES", "--task", "x", "--conditions", "y"], "not both"),
        (["CASES", "--conditions", "none.toml"], "none.toml cannot be read"),
        (["CASES", "--report", "/no/such/folder/r.html"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, says) -> None:
    cases = cases_file(tmp_path, 5)
    result = gate(*(str(cases) if one == "CASES" else one for one in arguments))
    assert result.exit_code == 3
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_judge_is_asked_once_for_each_case_and_corrected_by_people(tmp_path) -> None:
    # It prefers the longer answer, which is always the teacher's; people find both as good.
    cases = cases_file(tmp_path, 80, wrong=0.0, preference=None, teacher="there are a great many rooms, I believe")
    conditions = tmp_path / "conditions.toml"
    with stand_in_judge() as (url, asked):
        conditions.write_text(
            f'[[condition]]\nkind = "preference"\nfloor = 0.7\n[judge]\nbase_url = "{url}"\nmodel = "{MODEL}"\n'
        )
        first = gate(cases, "--conditions", conditions, "--json")
        assert len(asked) == 80
        again = gate(cases, "--conditions", conditions, "--json")
        assert len(asked) == 80
    [preference] = json.loads(first.stdout)["conditions"]
    assert preference == json.loads(again.stdout)["conditions"][0]
    assert (preference["verdict"], preference["estimate"]) == ("passed", 1.0)


def test_a_judge_may_check_the_grounding_and_a_files_own_word_goes_before_it(tmp_path) -> None:
    conditions = tmp_path / "conditions.toml"
    with stand_in_judge() as (url, asked):
        conditions.write_text(
            f'[[condition]]\nkind = "hallucination"\ncheck = "judge"\n[judge]\nbase_url = "{url}"\nmodel = "{MODEL}"\n'
        )
        cases = cases_file(tmp_path, 200, wrong=0.2)
        first = gate(cases, "--conditions", conditions, "--json")
        [found] = json.loads(first.stdout)["conditions"]
        # The judge rules on every case, and on the pairs that have no preference yet: here on none.
        assert len(asked) == 200
        assert (found["verdict"], first.exit_code) == ("failed", 1)
        assert "of which a model told 200" in found["note"]
        assert gate(cases, "--conditions", conditions, "--json").stdout == first.stdout
        gate(cases_file(tmp_path, 200, grounded=True), "--conditions", conditions)
        assert len(asked) == 200
    without = tmp_path / "without.toml"
    without.write_text('[[condition]]\nkind = "hallucination"\ncheck = "judge"\n')
    refused = gate(cases, "--conditions", without)
    assert refused.exit_code == 3
    assert "add [judge]" in refused.stderr


def test_a_judge_that_says_nothing_is_said_so(tmp_path) -> None:
    cases = cases_file(tmp_path, 4, preference=None)
    conditions = tmp_path / "conditions.toml"
    with stand_in_judge(silent=True) as (url, _):
        conditions.write_text(f'[judge]\nbase_url = "{url}"\nmodel = "{MODEL}"\n')
        result = gate(cases, "--conditions", conditions)
    assert result.exit_code == 3
    assert "gave no usable answer" in result.stderr


async def test_a_judge_that_likes_what_comes_first_is_evened_out() -> None:
    with stand_in_judge(first=True) as (url, asked):
        judge = RubricJudge(Judge(base_url=url, model=MODEL))
        rulings = await judge.rule([Question(f"q{n}", "i", "short", "longer", ("given",)) for n in range(200)])
        await judge.close()
    won = sum(ruling.winner == "student" for ruling in rulings)
    assert 70 < won < 130
    assert all((ruling.winner == "student") == ruling.student_first for ruling in rulings)
    assert [student_first(f"q{n}") for n in range(200)] == [ruling.student_first for ruling in rulings]
    assert {body["model"] for body in asked} == {MODEL}


async def test_a_judge_out_of_reach_rules_nothing() -> None:
    judge = RubricJudge(Judge(base_url="http://127.0.0.1:9/v1", model=MODEL, timeout_s=2))
    [ruling] = await judge.rule([Question("q", "i", "a", "b")])
    await judge.close()
    assert ruling.winner is None
