"""The offline gate's job with a real student and a real store: what holds, what is refused, what a crash changes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import timedelta

from tests.integration.validator.gated import COMMAND, CUTOFF, example, make, texts

LISTED = [
    {"kind": "recall", "floor": 0.8},
    {"kind": "slice", "by": "length", "floor": 0.8, "edges": [40]},
    {"kind": "slice", "by": "day", "floor": 0.8},
    {"kind": "slice", "by": "language", "floor": 0.8, "languages": ["en", "de"]},
    {"kind": "cost", "floor": 0.3},
    {"kind": "calibration", "ceiling": 0.4},
    {"kind": "size", "ceiling": 100},
    {"kind": "memory", "ceiling": 1000},
]


def verdicts(result) -> dict[str, str]:
    return {one["name"]: one["verdict"] for one in result["judgement"]["conditions"]}


def test_every_listed_condition_is_judged_and_shown(tmp_path) -> None:
    gated = make(tmp_path, gate={"condition": LISTED})
    gated.add(0, 600, wrong=0.01)
    result = gated.look()
    found = verdicts(result)
    assert result["judgement"]["verdict"] == "passed", result["judgement"]
    assert {"agreement", "coverage", "pays", "cost", "calibration", "size", "memory"} <= found.keys()
    assert {
        "recall of order",
        "agreement in 0-39 characters",
        "agreement in 2026-03-01",
        "agreement in language en",
    } <= found.keys()
    assert result["account"] == [{"student_id": "s1", "alpha": 0.025, "verdict": "passed"}]
    [memory] = [one for one in result["judgement"]["conditions"] if one["name"] == "memory"]
    assert 20 < memory["estimate"] < 1000
    report = (gated.home / "evaluations" / "s1" / "offline.html").read_text()
    assert "<svg" in report
    assert "alpha account" in report
    assert "where when my" not in report


def test_an_open_gate_says_what_the_missing_cases_cost(tmp_path) -> None:
    gated = make(tmp_path)
    gated.add(0, 20)
    judgement = gated.look()["judgement"]
    assert judgement["verdict"] == "undecided"
    assert judgement["costs_usd"] == judgement["needs_more"] * 0.002
    [agreement] = [one for one in judgement["conditions"] if one["name"] == "agreement"]
    assert agreement["costs_usd"] == agreement["needs_more"] * 0.002


def test_a_student_that_learnt_a_golden_case_is_refused(tmp_path) -> None:
    golden = tmp_path / "golden.jsonl"
    golden.write_text(json.dumps({"input": texts(400, seed=99)[3].upper() + "!", "label": "order"}) + "\n")
    gated = make(tmp_path, gate={"golden": str(golden)})
    gated.add(0, 300)
    judgement = gated.look()["judgement"]
    assert judgement["verdict"] == "failed"
    assert "trained on 1 golden case" in judgement["reason"]


def test_all_golden_cases_are_faced(tmp_path) -> None:
    golden = tmp_path / "golden.jsonl"
    gated = make(tmp_path)
    said = gated.model.predict_text("a policy question")[0]
    other = "refund" if said != "refund" else "other"
    rows = [
        {"input": "a policy question", "kind": "factuality", "label": said},
        {"input": "please call my lawyer", "kind": "policy", "label": other},
        {"input": "i will sue you", "kind": "escalation"},
    ]
    golden.write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher = {
        "seed": "seed.jsonl",
        "usd_per_call": 0.002,
        "escalate": [{"name": "legal", "patterns": ["lawyer"]}],
    }
    gated = make(tmp_path / "again", gate={"golden": str(golden)}, teacher=teacher)
    gated.add(0, 300)
    # It serves everything: what no rule keeps away from it, it answers.
    result = gated.look()
    assert result["threshold"] == 0.0
    found = verdicts(result)
    assert (found["golden factuality"], found["golden policy"], found["golden escalation"]) == (
        "passed",
        "passed",
        "failed",
    )
    assert result["judgement"]["verdict"] == "failed"
    assert len(result["golden_version"]) == 64


def test_a_teacher_that_contradicts_itself_is_no_measure(tmp_path) -> None:
    gated = make(tmp_path)
    gated.add(0, 100)
    gated.add(1000, 100, wrong=0.9)  # the same texts again
    judgement = gated.look()["judgement"]
    assert judgement["verdict"] == "failed"
    assert "the teacher agrees with itself" in judgement["reason"]


def test_the_live_student_is_what_a_recall_is_held_against(tmp_path) -> None:
    from stillhouse.events import RouteChanged, StudentRoute
    from stillhouse.store.rows import RouteRow
    from tests.integration.students import write_student

    gated = make(tmp_path, gate={"condition": [{"kind": "recall", "floor": 0.1, "margin": 0.05}]})
    champion = write_student(gated.home / "artefacts", "s0", temperature=0.02, seed=1)
    live = StudentRoute(student_id="s0", architecture="hashed_ngrams", artefact=champion, threshold=0.0, since=CUTOFF)
    route = RouteChanged(
        task="intents", version=1, stage="live", live=live, reason="r", changed_by="gate.passed", cause_id="c"
    )
    gated.store.append_routes(
        [RouteRow(route.id, route.time, "default", "intents", 1, "live", route.model_dump_json())]
    )
    gated.add(0, 900)
    result = gated.look()
    gained = {name: verdict for name, verdict in verdicts(result).items() if name.startswith("recall gained")}
    assert set(gained.values()) == {"passed"}
    assert len(gained) == 3


def test_a_job_killed_after_its_outcomes_counts_each_case_once(tmp_path) -> None:
    gated = make(tmp_path, gate={"condition": [{"kind": "memory", "ceiling": 1000}]})
    gated.add(0, 80)
    process = subprocess.Popen([*COMMAND, str(gated.round(0))])
    outcomes = gated.gate / "outcomes.json"
    deadline = time.monotonic() + 60
    while not outcomes.exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (gated.round(0) / "result.json").exists()
    before, fixed = json.loads(outcomes.read_text()), (gated.gate / "fixed.json").read_text()
    gated.add(80, 40, seed=6)  # what arrived while it was dead
    result = gated.look()
    after = json.loads(outcomes.read_text())
    assert after[: len(before)] == before
    ids = [one["case_id"] for one in after]
    assert len(ids) == len(set(ids)) == result["judgement"]["n"]
    assert {"e1", "e119"} <= set(ids)
    assert (gated.gate / "fixed.json").read_text() == fixed
    # And a round that ended is not judged again.
    assert gated.look()["judgement"] == result["judgement"]


def test_clocks_that_jump_never_make_a_lesson_a_question(tmp_path) -> None:
    gated = make(tmp_path)
    learnt = texts(400, seed=99)
    rows = [
        # The recorder's clock went forth: lessons that come again, and new texts from the past.
        example(1, learnt[0], "order", CUTOFF + timedelta(days=400)),
        example(2, learnt[1].upper(), "order", CUTOFF + timedelta(seconds=1)),
        example(3, "a new text from a clock set back", "order", CUTOFF - timedelta(days=400)),
        example(4, "a new text from a clock set forth", "order", CUTOFF + timedelta(days=400)),
    ]
    gated.store.append_examples(rows)
    gated.look()
    judged = json.loads((gated.gate / "outcomes.json").read_text())
    assert [one["case_id"] for one in judged] == ["e4"]


def test_what_a_gate_found_is_logged_once(tmp_path) -> None:
    from services.validator.gates import _evaluated
    from services.validator.lineage import EVALUATED_FILE, LOGGED_FILE, unlogged
    from stillhouse.bus.jobs import read_json, write_json

    gated = make(tmp_path)
    gated.add(0, 200)
    evaluated = _evaluated(gated.task, gated.student, gated.look())
    assert evaluated.verdict == "passed"
    assert evaluated.agreement.lower > 0.95
    assert evaluated.teacher_version == "t1"
    write_json(gated.gate / EVALUATED_FILE, evaluated.model_dump(mode="json"))
    assert unlogged(gated.home) == [gated.gate]
    command = [sys.executable, "-m", "services.validator.lineage", str(gated.gate)]
    subprocess.run(command, check=True, timeout=120)
    logged = read_json(gated.gate / LOGGED_FILE)
    assert unlogged(gated.home) == []
    subprocess.run(command, check=True, timeout=120)
    assert read_json(gated.gate / LOGGED_FILE) == logged
