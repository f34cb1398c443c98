"""What a task lists besides the promise: each condition alone, and how often the whole gate errs."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validator.cases import Costs, Faced, Facts, Outcome, eligible
from services.validator.conditions import slice_of
from services.validator.examination import examine, leaked
from services.validator.offline import judge
from services.validator.stages import Shadow, shadow_conditions, shadow_step, shadow_wanted
from stillhouse.quality.eprocess import AgreementTest
from stillhouse.tasks.conditions import Slice
from stillhouse.tasks.golden import GoldenCase
from tests.unit.validator.audits import SHA, audit, make_task

COSTS = Costs(student_usd=1e-7, overhead_usd=0.01)
T0 = datetime(2026, 3, 2, tzinfo=UTC)


def task_with(*conditions, **gate):
    return make_task(gate={"max_cases": 3000, "condition": conditions, **gate})


def outcomes(n: int, loss: dict[str, float], seed: int = 0, **more) -> list[Outcome]:
    """n cases, labels at random; of each label the share `loss` is served and wrong."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(sorted(loss), n, p=[0.9, 0.1] if len(loss) == 2 else None)
    return [
        Outcome(
            str(i),
            "wrong" if rng.random() < loss[label] else str(label),
            0.9,
            str(label),
            time=(T0 + timedelta(hours=i)).isoformat(),
            chars=10 if i % 2 else 300,
            **more,
        )
        for i, label in enumerate(labels)
    ]


def condition(judged, name: str):
    [found] = [one for one in judged.conditions if one.name == name]
    return found


def test_a_rare_label_that_is_lost_turns_a_good_average_away() -> None:
    task = task_with({"kind": "recall", "floor": 0.8})
    cases = outcomes(900, {"a": 0.0, "b": 0.4})
    assert judge(make_task(gate={"max_cases": 3000}), 0.5, cases, 0.025, COSTS).verdict != "failed"
    judged = judge(task, 0.5, cases, 0.025, COSTS)
    assert judged.verdict == "failed"
    assert judged.reason.endswith("recall of b")
    assert condition(judged, "recall of a").verdict == "passed"


def test_a_named_label_without_cases_keeps_the_gate_open() -> None:
    task = task_with({"kind": "recall", "labels": ["b"]})
    judged = judge(task, 0.5, outcomes(400, {"a": 0.0}), 0.025, COSTS)
    assert (judged.verdict, condition(judged, "recall of b").n) == ("undecided", 0)
    assert judged.costs_usd == pytest.approx(judged.needs_more * 0.002)


def test_recall_is_held_against_the_live_student_where_both_were_asked() -> None:
    task = task_with({"kind": "recall", "floor": 0.1, "margin": 0.02})
    better = judge(task, 0.5, outcomes(1500, {"a": 0.0, "b": 0.0}, champion_loss=False), 0.025, COSTS)
    assert condition(better, "recall gained in a").verdict == "passed"
    worse = judge(task, 0.5, outcomes(1500, {"a": 0.15, "b": 0.15}, champion_loss=False), 0.025, COSTS)
    assert condition(worse, "recall gained in a").verdict == "failed"
    alone = judge(task, 0.5, outcomes(1500, {"a": 0.0, "b": 0.0}), 0.025, COSTS)
    assert not [one for one in alone.conditions if one.name.startswith("recall gained")]


def test_slices_by_length_and_time_and_what_is_too_small_for_one() -> None:
    long_ones = [
        Outcome(str(i), "a" if i % 2 else "wrong", 0.9, "a", time=T0.isoformat(), chars=400) for i in range(40)
    ]
    cases = outcomes(800, {"a": 0.0}) + long_ones
    task = task_with({"kind": "slice", "by": "length", "floor": 0.9, "edges": [50, 350], "least_share": 0.0})
    judged = judge(task, 0.5, cases, 0.025, COSTS)
    assert condition(judged, "agreement in 350+ characters").verdict == "failed"
    assert condition(judged, "agreement in 0-49 characters").verdict == "passed"
    task = task_with({"kind": "slice", "by": "length", "floor": 0.9, "edges": [50, 350], "least_share": 0.1})
    judged = judge(task, 0.5, cases, 0.025, COSTS)
    assert "350+ characters (40)" in condition(judged, "agreement in 0-49 characters").note
    weeks = judge(task_with({"kind": "slice", "by": "week", "floor": 0.8}), 0.5, cases, 0.025, COSTS)
    assert condition(weeks, "agreement in week 2026-10").verdict == "passed"


def test_slices_by_language_and_texts_that_are_in_none() -> None:
    many, few = outcomes(800, {"a": 0.0}), outcomes(60, {"a": 0.4})
    cases = [replace(case, language="en") for case in many]
    cases += [replace(case, case_id=f"de-{i}", language="de") for i, case in enumerate(few)]
    cases.append(Outcome("n", "a", 0.9, "a", time=T0.isoformat()))
    task = task_with({"kind": "slice", "by": "language", "floor": 0.9})
    judged = judge(task, 0.5, cases, 0.025, COSTS)
    assert condition(judged, "agreement in language en").verdict == "passed"
    assert condition(judged, "agreement in language de").verdict == "failed"
    assert "unknown language (1)" in condition(judged, "agreement in language en").note


@given(st.integers(0, 5000), st.lists(st.integers(1, 4000), min_size=1, max_size=6, unique=True).map(sorted))
def test_every_length_is_in_the_band_that_names_it(chars: int, edges: list[int]) -> None:
    name = slice_of(Outcome("1", "a", 1.0, "a", chars=chars), Slice(kind="slice", by="length", edges=tuple(edges)))
    low, _, high = name.removesuffix(" characters").rstrip("+").partition("-")
    assert int(low) <= chars
    assert chars <= int(high or 5000)


@pytest.mark.parametrize(
    ("wanted", "facts", "verdict"),
    [
        ({"kind": "size", "ceiling": 2}, Facts(artefact_bytes=2_000_000), "passed"),
        ({"kind": "size", "ceiling": 2}, Facts(artefact_bytes=2_000_001), "failed"),
        ({"kind": "memory", "ceiling": 100}, Facts(memory_bytes=99_000_000), "passed"),
        ({"kind": "memory", "ceiling": 100}, Facts(memory_bytes=101_000_000), "failed"),
        ({"kind": "cost", "floor": 0.5}, Facts(), "passed"),
        ({"kind": "cost", "floor": 0.95}, Facts(), "failed"),
        ({"kind": "calibration", "ceiling": 0.3}, Facts(), "passed"),
        ({"kind": "calibration", "ceiling": 0.01}, Facts(), "failed"),
    ],
)
def test_each_condition_alone_decides(wanted, facts, verdict) -> None:
    # All is served, right, and believed with 0.9: saved are 90 % (audits cost 10 %), the calibration is off by 0.1.
    judged = judge(task_with(wanted), 0.5, outcomes(1200, {"a": 0.0}), 0.025, COSTS, facts)
    assert condition(judged, wanted["kind"]).verdict == verdict
    assert judged.verdict == verdict


def test_an_open_cost_says_how_many_cases_narrow_it() -> None:
    task = task_with({"kind": "cost", "floor": 0.7}, min_coverage=0.5)
    cases = [Outcome(str(i), "a", 0.9 if i % 5 else 0.1, "a") for i in range(300)]  # 80 % served, 72 % saved
    judged = judge(task, 0.5, cases, 0.025, COSTS)
    open_ = condition(judged, "cost")
    assert (open_.verdict, judged.verdict) == ("undecided", "undecided")
    assert open_.needs_more is not None
    assert open_.needs_more > 500


def test_golden_cases_are_a_list_to_be_met() -> None:
    faced = [Faced("policy", True)] * 9 + [Faced("policy", False, "case 7 by the student, b")]
    judged = judge(task_with(), 0.5, outcomes(900, {"a": 0.0}), 0.025, COSTS, Facts(golden=tuple(faced)))
    assert (judged.verdict, judged.reason) == ("failed", "does not hold: golden policy")
    assert "case 7" in condition(judged, "golden policy").note
    lenient = make_task(gate={"max_cases": 3000, "golden_floor": {"policy": 0.9}})
    assert judge(lenient, 0.5, outcomes(900, {"a": 0.0}), 0.025, COSTS, Facts(golden=tuple(faced))).verdict == "passed"


def test_what_each_kind_of_golden_case_asks() -> None:
    teacher = {
        "seed": "seed.jsonl",
        "usd_per_call": 0.002,
        "escalate": [{"name": "legal", "patterns": ["lawyer"]}],
    }
    task = make_task(teacher=teacher)
    said = {"sure and right": ("a", 0.9), "sure and wrong": ("b", 0.9), "unsure and wrong": ("b", 0.1)}
    said["my lawyer"] = ("b", 0.9)
    cases = [GoldenCase(input=text, kind=kind, label="a") for text in said for kind in ("policy", "factuality")]
    cases += [GoldenCase(input=text, kind="escalation") for text in said]
    found = [one.holds for one in examine(task, cases, [said[case.input] for case in cases], 0.5)]
    assert found == [True, True, False, False, True, False, True, False, False, False, True, True]


def test_leaks_are_found_by_text_and_by_hash() -> None:
    from stillhouse.store.redaction import input_hash

    cases = [GoldenCase(input=text, label="a") for text in ("Please cancel my subscription today", "erased since")]
    assert leaked(cases, ["please cancel my subscription today!!", "something else"], set()) == 1
    assert leaked(cases, [], {input_hash("Erased since.")}) == 1
    assert leaked(cases, ["something else"], {"x"}) == 0
    refused = judge(task_with(), 0.5, outcomes(900, {"a": 0.0}), 0.025, COSTS, Facts(leaked=2))
    assert (refused.verdict, refused.final, refused.n) == ("failed", True, 0)
    assert "2 golden cases" in refused.reason


def test_a_teacher_below_the_floor_is_a_reason_of_its_own() -> None:
    noisy = AgreementTest(0.95, 0.05)
    noisy.update_many(50, 50)
    refused = judge(task_with(), 0.5, outcomes(900, {"a": 0.0}), 0.025, COSTS, Facts(teacher=noisy))
    assert refused.verdict == "failed"
    assert "50 of 100 questions" in refused.reason


def test_ten_conditions_pass_a_bad_student_no_more_often_than_one() -> None:
    # All conditions must hold, so each at alpha keeps the whole at alpha: here only the recall of b is at its floor.
    task, alpha, paths = task_with({"kind": "recall", "floor": 0.8}, {"kind": "cost"}), 0.1, 60
    passed = sum(
        judge(task, 0.5, outcomes(1500, {"a": 0.0, "b": 0.2}, seed), alpha, COSTS).verdict == "passed"
        for seed in range(paths)
    )
    assert passed <= alpha * paths + 3 * math.sqrt(alpha * (1 - alpha) * paths)


def test_a_listed_latency_is_decided_by_evidence() -> None:
    gate = task_with({"kind": "latency", "ceiling": 50}).gate
    state = Shadow()
    for number in range(500):
        state = shadow_step(state, audit(number, "shadow"), SHA, shadow_wanted(gate))
    assert state.n == 500
    early = state.model_copy(update={"n": 300, "latencies_ms": state.latencies_ms[:300]})
    *_, open_ = shadow_conditions(early, gate, SHA, 0.05)
    assert (open_.name, open_.verdict) == ("latency", "undecided")
    assert 0 < open_.needs_more <= 200
    *_, passed = shadow_conditions(state, gate, SHA, 0.05)
    assert (passed.verdict, passed.upper) == ("passed", 5.0)
    slow = state.model_copy(update={"latencies_ms": (900.0,) * 40 + state.latencies_ms[:460]})
    assert shadow_conditions(slow, gate, SHA, 0.05)[-1].verdict == "failed"
    never = state.model_copy(update={"n": 3000, "latencies_ms": (900.0, *(5.0,) * 100) * 5})
    assert shadow_conditions(never, gate, SHA, 0.05)[-1].verdict == "failed"


times = st.integers(-10_000, 10_000).map(lambda seconds: T0 + timedelta(seconds=seconds))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10), times, times), max_size=60), times)
def test_whatever_clocks_say_nothing_learnt_or_judged_is_judged_again(recorded, cutoff) -> None:
    # (id, text, the time when the dataset was frozen, the time that it has now): clocks jump between the two.
    frozen = [(number, text) for number, text, before, _ in recorded if before <= cutoff]
    learnt = {f"e{number}" for number, _ in frozen} | {f"h{text}" for _, text in frozen}
    known: set[str] = set()
    for number, text, _, now in recorded:
        row = {"example_id": f"e{number}", "input_sha256": f"h{text}", "time": now, "sample": "full"}
        if eligible(row | {"provenance": "teacher"}, cutoff, learnt, known):
            assert (number, text) not in frozen
            assert f"h{text}" not in learnt
            assert f"e{number}" not in known
            known.add(f"e{number}")


@pytest.mark.parametrize("change", [{"sample": "escalation"}, {"provenance": "policy"}, {"time": T0}])
def test_chosen_ruled_and_old_examples_judge_nobody(change) -> None:
    row = {
        "example_id": "e",
        "input_sha256": "h",
        "time": T0 + timedelta(1),
        "sample": "audit",
        "provenance": "teacher",
    }
    assert eligible(row, T0, set(), set())
    assert not eligible(row | change, T0, set(), set())
