"""`stillhouse review` as typed, on a real broker and a real store."""

from __future__ import annotations

import json

from stillhouse.cli.reading import events_of, read_records
from stillhouse.events import ReviewResolved
from tests.integration.review.conftest import KEY, audit, case, example


async def test_cases_are_shown_judged_and_gone_before_the_observer_wrote_them(typed) -> None:
    rows = [example(1), example(2), example(3)]
    typed.store.append_examples(rows)
    typed.store.append_audits([audit(rows[1], "c")])
    typed.store.append_cases([case(rows[0]), case(rows[1], "disagreement"), case(rows[2], "random")])

    first = json.loads((await typed("review", "next", "--json")).stdout)
    assert (first["waiting"], first["case"]["request_id"], first["case"]["reason"]) == (3, "request-3", "random")
    done = await typed("review", "approve", first["case"]["case_id"], "--minutes", "2", "--reviewer", "ann")
    assert (done.exit_code, "approved: b" in done.stdout) == (0, True), done.stderr

    shown = (await typed("review", "next", "intents")).stdout
    for part in ("disagreement", "zebra sentence 2", "teacher   a", "student   c", "a, b, c", "2 wait: 1 "):
        assert part in shown
    blind = (await typed("review", "next", "--blind")).stdout
    assert "zebra sentence 2" in blind
    assert "teacher" not in blind
    prefix = case(rows[1]).case_id[:8]
    assert "a corrected to c" in (await typed("review", "correct", prefix, "--label", "c")).stdout
    flagged = await typed("review", "flag", case(rows[0]).case_id, "--note", "call +49 170 1234567")
    assert "flagged" in flagged.stdout
    assert "No case waits" in (await typed("review", "next")).stdout
    assert json.loads((await typed("review", "next", "--json")).stdout) == {"waiting": 0, "case": None}

    assert [(one.verdict, one.label, one.previous_label) for one in await typed.said()] == [
        ("approve", "b", "b"),
        ("correct", "c", "a"),
        ("flag", None, "b"),
    ]
    resolved = events_of(await read_records(typed.kafka, [ReviewResolved.TYPE]))
    assert next((one.reviewer, one.minutes) for one in resolved) == ("ann", 2.0)
    assert [one.review_id for one in resolved] == [one.id for one in await typed.said()]

    await typed.observe()
    await typed.observe()
    kept = typed.store.reviews(KEY).to_pylist()
    assert [(row["reason"], row["drawn"], row["minutes"], row["note"]) for row in kept] == [
        ("random", "random", 2.0, ""),
        ("disagreement", "picked", None, ""),
        ("low_confidence", "picked", None, "call <phone>"),
    ]
    assert [(row["output"], row["verdict"]) for row in typed.store.reviewed_examples(KEY)] == [
        ("b", "flag"),
        ("c", "correct"),
        ("b", "approve"),
    ]
    again = await typed("review", "correct", prefix, "--label", "c")
    assert "You said so before" in again.stdout
    assert len(await typed.said()) == 3


async def test_any_request_can_be_judged_and_mistakes_get_one_sentence(typed) -> None:
    typed.store.append_examples([example(1)])
    assert "b corrected to c" in (await typed("review", "correct", "request-1", "--label", "c")).stdout
    [event] = await typed.said()
    assert (event.reason, event.drawn) == ("asked", "picked")
    for arguments, complaint in (
        (("approve", "nobody"), "No answer waits under 'nobody'"),
        (("correct", "request-1", "--label", "z"), "has no label 'z'; it has a, b, c."),
        (("next", "nothing"), "declares no task 'default/nothing'; known are default/intents."),
    ):
        failed = await typed("review", *arguments)
        assert failed.exit_code == 1
        assert complaint in failed.stderr
        assert failed.stderr.count("\n") == 1


async def test_a_file_goes_out_and_comes_back_and_coming_again_changes_nothing(typed, tmp_path) -> None:
    rows = [example(number) for number in range(1, 7)]
    typed.store.append_examples(rows)
    typed.store.append_cases([case(row) for row in rows])
    file = tmp_path / "tasks.json"
    told = await typed("review", "export", str(file), "--format", "label-studio")
    assert "6 cases in" in told.stdout.replace("\n", " ")
    assert '<Choice value="c"/>' in told.stdout
    tasks = json.loads(file.read_text())
    by_text = {task["data"]["text"]: task for task in tasks}

    def answered(number: int, label: str) -> None:
        result = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}, "id": "x"}
        annotation = {"result": [result], "completed_by": 7, "lead_time": 30, "updated_at": "2026-01-01T00:00:00Z"}
        by_text[f"zebra sentence {number}"]["annotations"] = [annotation]

    answered(1, "b")
    answered(2, "c")
    answered(3, "unheard of")
    tasks.append({"data": {"text": "?", "case_id": "gone"}, "annotations": by_text["zebra sentence 1"]["annotations"]})
    file.write_text(json.dumps(tasks))
    counts = {"file": str(file), "taken": 2, "known": 0, "unknown_case": 1, "unknown_label": 1}
    assert json.loads((await typed("review", "import", str(file), "--json")).stdout) == counts
    again = json.loads((await typed("review", "import", str(file), "--json")).stdout)
    assert (again["taken"], again["known"]) == (0, 2)
    said = await typed.said()
    assert {(one.verdict, one.label, one.reviewer, one.minutes) for one in said} == {
        ("approve", "b", "label-studio:7", 0.5),
        ("correct", "c", "label-studio:7", 0.5),
    }
    assert json.loads((await typed("review", "next", "--json")).stdout)["waiting"] == 4

    for format_ in ("argilla", "jsonl"):
        other = tmp_path / f"cases.{format_}"
        await typed("review", "export", str(other), "--format", format_)
        assert other.read_text().count("zebra") == 4
        assert json.loads((await typed("review", "import", str(other), "--json")).stdout)["taken"] == 0
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{")
    failed = await typed("review", "import", str(bad))
    assert (failed.exit_code, failed.stderr) == (1, f"{bad}: line 1 is not JSON.\n")
