"""Sheets for people: random, blind, taken back once, and within an erasure's reach."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.review.answers import (
    Answered,
    add_opinions,
    count_opinions,
    folder_of_student,
    forget_answers,
    opinions_in,
    read_answers,
    read_opinions,
    sheet,
    shown_to_people,
    student_is_first,
    task_of,
    write_answers,
)

ALL = ("teacher", "base", "grounding")


def answers(n: int, base: str | None = "from the base") -> list[Answered]:
    return [
        Answered(f"e{i}", f"question {i}", ("given",), "from the student", "from the teacher", base) for i in range(n)
    ]


def filled(rows, said) -> str:
    return "".join(json.dumps(row | {"said": said(row)}) + "\n" for row in rows)


def test_a_random_part_is_shown_and_both_orders_are_as_likely() -> None:
    shown = sum(shown_to_people(f"e{i}", 0.25) for i in range(4000))
    assert 900 < shown < 1100
    assert 1850 < sum(student_is_first(f"e{i}", "base") for i in range(4000)) < 2150
    assert {one for i in range(200) if shown_to_people(one := f"e{i}", 0.1)} <= {
        one for i in range(200) if shown_to_people(one := f"e{i}", 0.3)
    }


def test_a_sheet_does_not_say_who_wrote_what_and_what_was_said_is_not_asked_again() -> None:
    rows = sheet(answers(40), set(), ALL, 1.0, None)
    assert len(rows) == 120
    for row in rows:
        about = row["id"].split(":")[0]
        assert row.keys() == {"id", "question", "said", "input", "given"} | (
            {"answer"} if about == "grounding" else {"a", "b"}
        )
    firsts = {row["a"] for row in rows if row["id"].startswith("teacher:")}
    assert firsts == {"from the student", "from the teacher"}
    assert len(sheet(answers(40), {("e3", "teacher"), ("e3", "base")}, ALL, 1.0, None)) == 118
    assert len(sheet(answers(40), set(), ALL, 1.0, 7)) == 7
    assert not [row for row in sheet(answers(5, base=None), set(), ALL, 1.0, None) if row["id"].startswith("base:")]


@given(st.integers(0, 10**6))
def test_what_is_said_of_a_or_b_is_said_of_the_right_model(number: int) -> None:
    case = Answered(f"e{number}", "q", (), "S", "T", "B")
    rows = sheet([case], set(), ALL, 1.0, None)
    text = filled(rows, lambda row: "no" if "answer" in row else ("A" if row["a"] == "S" else " b "))
    assert {(one.about, one.said) for one in opinions_in(text, {case.id}, "me")} == {
        ("teacher", "student"),
        ("base", "student"),
        ("grounding", "grounded"),
    }
    other = filled(rows, lambda row: "yes" if "answer" in row else ("b" if row["a"] == "S" else "a"))
    assert {one.said for one in opinions_in(other, {case.id}, "me")} == {"other", "made_up"}


def test_the_same_file_again_changes_nothing_and_a_change_of_mind_counts(tmp_path) -> None:
    folder = folder_of_student(tmp_path, "s1")
    write_answers(folder, answers(6), "default/notes")
    assert task_of(folder) == "default/notes"
    assert task_of(tmp_path) is None
    text = filled(sheet(read_answers(folder), set(), ("teacher",), 1.0, None), lambda row: "tie")
    said = opinions_in(text, {f"e{i}" for i in range(6)}, "me")
    assert len(add_opinions(folder, said)) == 6
    assert add_opinions(folder, said) == []
    assert count_opinions(folder) == 6
    changed = opinions_in(json.dumps({"id": "teacher:e1", "said": "a", "minutes": 2}), {"e1"}, "me")
    assert add_opinions(folder, changed) == changed
    assert read_opinions(folder)["e1", "teacher"].said in ("student", "other")
    assert count_opinions(folder) == 7


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1: no row of a sheet"),
        ('{"id": "teacher:nobody", "said": "a"}', "no case 'teacher:nobody' of this student"),
        ('{"id": "teacher:e1", "said": "left"}', "write a, b or tie"),
        ('{"id": "grounding:e1", "said": "tie"}', "write yes or no"),
        ('{"id": "teacher:e1", "said": "a", "minutes": -1}', "minutes is -1"),
    ],
)
def test_a_bad_sheet_gets_one_sentence(line, says) -> None:
    with pytest.raises(ValueError, match="line 1") as caught:
        opinions_in(line, {"e1"}, "me")
    assert says in str(caught.value)


def test_an_erasure_takes_texts_out_of_every_students_answers(tmp_path) -> None:
    for student in ("s1", "s2"):
        write_answers(folder_of_student(tmp_path, student), answers(5), "default/notes")
    assert forget_answers(tmp_path, ["e1", "e4", "unknown"]) == 4
    assert [one.id for one in read_answers(folder_of_student(tmp_path, "s2"))] == ["e0", "e2", "e3"]
    assert forget_answers(tmp_path, ["e1", "e4"]) == 0
    assert task_of(folder_of_student(tmp_path, "s1")) == "default/notes"
