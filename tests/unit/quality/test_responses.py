"""The gate of answers in free words: what each condition takes for evidence, and how often the whole errs."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from stillhouse.quality.response_cases import read_cases
from stillhouse.quality.responses import Case, judge_responses
from stillhouse.tasks.responses import (
    Agreement,
    Cost,
    Hallucination,
    NonInferiority,
    Preference,
    Prices,
    ResponseGate,
    WinRate,
    read_response_gate,
)

PRICES = Prices(teacher_usd=0.004, student_usd=0.001, human_usd_per_minute=0.5, minutes_per_review=2)


def same(a: str, b: str) -> bool:
    return a == b


def case(number: int, **changes) -> Case:
    fields = {
        "id": str(number),
        "input": "how many?",
        "student": "12 rooms",
        "teacher": "12 rooms",
        "context": ("it has 12 rooms",),
        "preference": "tie",
        "human_preference": "tie",
        "winner": "student",
        "student_first": number % 2 == 0,
        "hallucinated": False,
    }
    return Case(**(fields | changes))


def told(cases, *conditions, **gate):
    findings = judge_responses(cases, ResponseGate(condition=conditions, prices=PRICES, **gate), same)
    return findings, {one.name: one for one in findings.conditions}


def test_the_five_defaults_are_those_of_a_response_task() -> None:
    floors = {one.kind: getattr(one, "floor", None) or one.ceiling for one in ResponseGate().condition}
    assert floors == {"agreement": 0.95, "preference": 0.85, "win_rate": 0.65, "hallucination": 0.04, "cost": 0.5}


def test_a_good_student_passes_all_five() -> None:
    findings = judge_responses([case(n) for n in range(400)], ResponseGate(prices=PRICES), same)
    assert (findings.verdict, findings.needs_more, findings.costs_usd) == ("passed", None, None)
    assert len(findings.conditions) == 5


def test_what_nobody_looked_at_is_open_and_priced() -> None:
    bare = [
        case(n, human_preference=None, preference=None, winner=None, hallucinated=None, student_first=None)
        for n in range(400)
    ]
    findings = judge_responses(bare, ResponseGate(prices=PRICES), same)
    verdicts = {one.name: one.verdict for one in findings.conditions}
    assert findings.verdict == "undecided"
    assert verdicts == {
        "agreement": "passed",
        "preference": "undecided",
        "win rate": "undecided",
        "hallucination": "undecided",
        "cost": "passed",
    }
    for one in findings.conditions:
        if one.verdict == "undecided":
            assert one.needs_more > 0
            assert one.costs_usd == pytest.approx(one.needs_more * 1.0)  # two minutes at 0.50
    assert findings.needs_more == max(one.needs_more or 0 for one in findings.conditions)


@pytest.mark.parametrize(
    ("changes", "condition", "name"),
    [
        ({"student": "13 rooms"}, Agreement(kind="agreement"), "agreement"),
        ({"human_preference": "other", "preference": "other"}, Preference(kind="preference"), "preference"),
        ({"winner": "other"}, WinRate(kind="win_rate"), "win rate"),
        ({"winner": "other"}, NonInferiority(kind="non_inferiority"), "non-inferiority"),
        ({"student": "13 rooms", "hallucinated": True}, Hallucination(kind="hallucination"), "hallucination"),
        ({"teacher_usd": 0.004, "student_usd": 0.004}, Cost(kind="cost"), "cost"),
    ],
)
def test_each_condition_alone_turns_a_bad_student_away(changes, condition, name) -> None:
    prices = PRICES.model_copy(update={"largest_usd": 0.01})
    good = {"student_usd": 0.001, "teacher_usd": 0.004} if name == "cost" else {}
    for cases, verdict in (
        ([case(n, **(good | changes)) for n in range(400)], "failed"),
        ([case(n, **good) for n in range(400)], "passed"),
    ):
        findings = judge_responses(cases, ResponseGate(condition=(condition,), prices=prices), same)
        assert [(one.name, one.verdict) for one in findings.conditions] == [(name, verdict)]
        assert findings.verdict == verdict


def test_people_correct_a_judge_that_praises_everything() -> None:
    cases = [case(n, preference="tie", human_preference="other" if n % 2 else "tie") for n in range(200)]
    findings, by_name = told(
        cases + [case(n, human_preference=None) for n in range(200, 2000)], Preference(kind="preference")
    )
    assert findings.verdict == "failed"
    assert by_name["preference"].estimate == pytest.approx(0.5, abs=0.05)
    # A judge alone convinces nobody.
    alone, _ = told([case(n, human_preference=None) for n in range(2000)], Preference(kind="preference"))
    assert alone.verdict == "undecided"


def test_the_check_is_corrected_by_what_people_find() -> None:
    # The check is blind to what is wrong here; people are not.
    cases = [case(n, hallucinated=n % 5 == 0) for n in range(300)]
    findings, by_name = told(cases, Hallucination(kind="hallucination"))
    assert findings.verdict == "failed"
    assert by_name["hallucination"].estimate == pytest.approx(0.2, abs=0.01)
    assert by_name["hallucination"].lower > 0.04
    assert by_name["hallucination"].ceiling == 0.04


def test_a_catalogue_stands_in_for_context(tmp_path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("Grand Plaza\n")
    wanted = Hallucination(kind="hallucination", catalogue=path)
    cases = [case(n, context=(), student="It is the Grand Plaza") for n in range(300)]
    assert "found 0 in 300" in told(cases, wanted)[1]["hallucination"].note
    cases = [case(n, context=(), student="It is the Small Plaza") for n in range(300)]
    assert "found 300 in 300" in told(cases, wanted)[1]["hallucination"].note
    without = told([replace(one, context=()) for one in cases], Hallucination(kind="hallucination"))[1]
    assert "by people; no context" in without["hallucination"].note


def test_an_order_that_was_not_drawn_proves_nothing() -> None:
    findings, by_name = told([case(n, student_first=True) for n in range(300)], WinRate(kind="win_rate"))
    assert findings.verdict == "undecided"
    assert "shown first in 300 of 300" in by_name["win rate"].note
    unknown = told([case(n, student_first=None) for n in range(300)], WinRate(kind="win_rate"))[1]
    assert "not recorded" in unknown["win rate"].note


def test_a_teacher_that_contradicts_itself_is_no_measure() -> None:
    cases = [case(n, teacher_again="11 rooms" if n % 4 == 0 else "12 rooms") for n in range(200)]
    findings, _ = told(cases, Agreement(kind="agreement"))
    assert findings.verdict == "failed"
    assert findings.reason.startswith("the teacher agrees with itself on 150 of 200")


def test_costs_of_their_own_need_their_largest() -> None:
    cases = [case(n, student_usd=0.001, teacher_usd=0.004) for n in range(200)]
    with pytest.raises(ValueError, match="largest_usd"):
        told(cases, Cost(kind="cost"))
    gate = ResponseGate(condition=(Cost(kind="cost"),), prices=Prices(largest_usd=0.002))
    with pytest.raises(ValueError, match="costs more than"):
        judge_responses(cases, gate, same)
    nothing = ResponseGate(condition=(Cost(kind="cost"),))
    assert judge_responses([case(1)], nothing, same).conditions[0].note.startswith("no costs")


@pytest.mark.parametrize("broken", ["agreement", "hallucination", "win rate"])
def test_a_student_at_the_edge_of_one_condition_passes_at_most_alpha(broken: str) -> None:
    rng, alpha, paths, passed = np.random.default_rng(21), 0.1, 40, 0
    gate = ResponseGate(
        alpha=alpha,
        condition=(
            Agreement(kind="agreement", floor=0.9),
            WinRate(kind="win_rate"),
            Hallucination(kind="hallucination", ceiling=0.1),
            Cost(kind="cost"),
        ),
        prices=PRICES,
    )
    for _ in range(paths):
        other, made_up, lost = (rng.random(200) < share for share in (0.1, 0.1, 0.35))
        cases = [
            case(
                n,
                context=("it has 12 rooms",) if broken == "hallucination" else (),
                student="12 rooms." if broken == "agreement" and other[n] else "12 rooms",
                hallucinated=bool(broken == "hallucination" and made_up[n]),
                winner="other" if broken == "win rate" and lost[n] else "student",
            )
            for n in range(200)
        ]
        passed += judge_responses(cases, gate, same).verdict == "passed"
    assert passed <= alpha * paths + 3 * math.sqrt(alpha * (1 - alpha) * paths)


def write(folder, *rows) -> object:
    path = folder / "cases.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_cases_are_read_and_only_what_was_drawn_counts(tmp_path) -> None:
    base = {"input": "i", "student": "s"}
    read = read_cases(
        write(
            tmp_path,
            base | {"id": "a", "context": "c", "human_winner": "base", "extra": 1},
            "",
            base | {"drawn": "low_confidence", "hallucinated": True},
            base | {"review_drawn": "disagreement", "hallucinated": True, "human_preference": "teacher"},
        )
    )
    assert read.not_random == 1
    assert [one.id for one in read.cases] == ["a", "4"]
    assert (read.cases[0].context, read.cases[0].winner) == (("c",), "other")
    assert (read.cases[1].hallucinated, read.cases[1].human_preference) == (None, None)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"student": "s"}, "line 1: input: Field required"),
        ("{", "line 1"),
        ({"input": "i", "student": "s", "human_winner": "teacher"}, "human_winner is 'teacher'"),
        ({"input": "i", "student": "s", "drawn": "rare"}, "no case that was drawn at random"),
    ],
)
def test_bad_cases_get_one_sentence(tmp_path, row, says) -> None:
    with pytest.raises(ValueError, match=r"cases\.jsonl") as caught:
        read_cases(write(tmp_path, row))
    assert says in str(caught.value)


def test_a_case_twice_is_counted_once_or_not_at_all(tmp_path) -> None:
    row = {"id": "a", "input": "i", "student": "s"}
    with pytest.raises(ValueError, match="there twice"):
        read_cases(write(tmp_path, row, row))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[condition]]\nkind = "speed"', "condition.0"),
        ('[[condition]]\nkind = "cost"\n' * 2, "named twice"),
        ("[prices]\nfloor = 1", "prices.floor"),
        ("alpha =", "cannot be read"),
    ],
)
def test_bad_condition_files_get_one_sentence(tmp_path, text, says) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"c\.toml") as caught:
        read_response_gate(path)
    assert says in str(caught.value)


def test_paths_of_a_conditions_file_start_there(tmp_path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        '[[condition]]\nkind = "hallucination"\ncatalogue = "names.txt"\n'
        '[comparator]\nkind = "embedding"\npairs = "p.jsonl"\n'
    )
    gate = read_response_gate(path)
    assert gate.condition[0].catalogue == tmp_path / "names.txt"  # type: ignore[union-attr]
    assert gate.comparator.pairs == tmp_path / "p.jsonl"  # type: ignore[union-attr]
