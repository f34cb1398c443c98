"""What goes out to labelling tools, and what they give back, in the shapes that they document."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from xml.etree import ElementTree

import pytest

from stillhouse.review import Case
from stillhouse.review.files import dump, load
from stillhouse.review.label_studio import config

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def case(number: int = 1, **changes) -> Case:
    fields = {
        "case_id": f"case-{number}",
        "time": T0,
        "tenant": "default",
        "task": "intents",
        "example_id": f"e{number}",
        "request_id": f"r{number}",
        "input_sha256": "0" * 64,
        "reason": "disagreement",
        "drawn": "picked",
        "text": 'where is "volume" <3>? żółw',
        "teacher_output": "a",
        "confidence": 0.7,
        "teacher_version": "t1",
        "student_outputs": ("b",),
    }
    return Case(**(fields | changes))


@pytest.mark.parametrize("format_", ["argilla", "label-studio", "jsonl"])
def test_a_blind_file_holds_the_text_and_nothing_that_a_model_said(format_) -> None:
    told, blind = dump([case()], format_), dump([case()], format_, blind=True)
    for text in (told, blind):
        assert "case-1" in text
        assert "żółw" in text
    assert "t1" in told or "teacher_label" in told
    assert not any(word in blind for word in ("0.7", "t1", "teacher_label", '"b"'))
    assert load(told) == load(blind) == []  # nobody has answered yet


def test_lines_that_were_answered_come_back() -> None:
    lines = [json.loads(line) for line in dump([case(1), case(2), case(3), case(4)], "jsonl").splitlines()]
    lines[0] |= {"label": "b", "reviewer": "ann", "minutes": 2, "reviewed_at": "2026-01-02T10:00:00+02:00"}
    lines[1] |= {"verdict": "flag", "note": "two questions"}
    lines[2] |= {"verdict": "approve"}
    corrected, flagged, approved = load("".join(json.dumps(line) + "\n" for line in lines))
    assert (corrected.case_id, corrected.label, corrected.reviewer, corrected.minutes) == ("case-1", "b", "ann", 2.0)
    assert corrected.time == datetime(2026, 1, 2, 10, tzinfo=timezone(timedelta(hours=2)))
    assert (flagged.verdict, flagged.note) == ("flag", "two questions")
    assert (approved.verdict, approved.label) == ("approve", None)


def test_argilla_records_come_back_with_each_persons_responses() -> None:
    """As `Record.to_dict` of argilla 2 writes them: responses by question, a list of value and user each."""
    records = json.loads(dump([case(1), case(2), case(3), case(4)], "argilla"))
    assert set(records[0]) == {
        "id", "fields", "metadata", "suggestions", "responses", "vectors", "status", "_server_id",
    }  # fmt: skip
    assert records[0]["suggestions"] == {"label": {"value": "a", "score": 0.7, "agent": "t1"}}
    ann, bob = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
    records[0]["responses"] = {
        "label": [{"value": "b", "user_id": ann}, {"value": "a", "user_id": bob}],
        "note": [{"value": "clear", "user_id": ann}],
    }
    records[1]["responses"] = {"flag": [{"value": "flag", "user_id": ann}], "label": [{"value": "b", "user_id": ann}]}
    records[2]["responses"] = {"label": [{"value": "b", "user_id": ann, "status": "draft"}]}
    records[3]["responses"] = None
    said = load(json.dumps(records))
    assert [(one.case_id, one.label, one.verdict, one.reviewer, one.note) for one in said] == [
        ("case-1", "b", None, f"argilla:{ann}", "clear"),
        ("case-1", "a", None, f"argilla:{bob}", ""),
        ("case-2", None, "flag", f"argilla:{ann}", ""),
    ]


def annotation(**changes):
    """As Label Studio's task format documents it."""
    label = {
        "from_name": "label",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": ["b"]},
        "id": "Dx_aB91ISN",
    }
    return {
        "id": 1001,
        "result": [label],
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2021-03-09T22:16:08.728353Z",
        "updated_at": "2021-03-09T22:16:09.728378Z",
        "lead_time": 90.0,
        "result_count": 1,
        "task": 1,
        "completed_by": 10,
    } | changes


def test_label_studio_tasks_come_back_with_their_annotations() -> None:
    tasks = json.loads(dump([case(1), case(2), case(3), case(4)], "label-studio"))
    assert tasks[0]["data"]["text"] == case().text
    [prediction] = tasks[0]["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("t1", 0.7)
    assert prediction["result"][0]["value"] == {"choices": ["a"]}
    note = {"from_name": "note", "to_name": "text", "type": "textarea", "value": {"text": ["both"]}, "id": "n"}
    flag = {"from_name": "flag", "to_name": "text", "type": "choices", "value": {"choices": ["flag"]}, "id": "f"}
    tasks[0] |= {"id": 1, "annotations": [annotation()]}
    tasks[1] |= {"id": 2, "annotations": [annotation(result=[flag, note], completed_by={"id": 3, "email": "a@b.c"})]}
    tasks[2] |= {"id": 3, "annotations": [annotation(was_cancelled=True), annotation(result=[])]}
    corrected, flagged = load(json.dumps(tasks))
    assert (corrected.case_id, corrected.label, corrected.minutes) == ("case-1", "b", 1.5)
    assert corrected.reviewer == "label-studio:10"
    assert corrected.time == datetime(2021, 3, 9, 22, 16, 9, 728378, tzinfo=UTC)
    assert (flagged.verdict, flagged.note, flagged.reviewer) == ("flag", "both", "label-studio:a@b.c")


def test_the_labelling_configuration_has_every_label_and_is_xml() -> None:
    tree = ElementTree.fromstring(config(["a", 'b "&" c']))
    choices = tree.find("Choices[@name='label']")
    assert choices is not None
    assert [choice.get("value") for choice in choices] == ["a", 'b "&" c']


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "line 1 is not JSON"),
        ('{"id": "c"}\n{"label": "x"}', "line 2 has no `id`"),
        ('{"id": "c", "verdict": "maybe"}', "there is no verdict 'maybe'"),
        ('{"id": "c", "label": "x", "minutes": "long"}', "minutes must be a number"),
        ("[1]", "neither of Argilla's"),
        ("[{]", "not JSON"),
        ('[{"fields": {}}]', "record 1 has no `id`"),
        ('[{"data": {"text": "x"}}]', "task 1 has no `case_id`"),
    ],
)
def test_what_is_wrong_is_named(text, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        load(text)


def test_an_empty_file_says_nothing() -> None:
    assert load("") == load("[]") == load("\n") == []
