"""The teacher's agreement with itself: what it is asked again, each answer counted once, and what is suspicious."""

from __future__ import annotations

from datetime import timedelta

from services.drift_monitor.asking import PENDING, answered, asked, check, turn_of
from services.drift_monitor.inputs import InputWatch
from stillhouse.events import Answer
from tests.unit.drift_monitor.answers import answered as completed
from tests.unit.trainer.tasks import T0, make_task

TASK = make_task(drift={"teacher_checks_per_day": 24})
ROWS = [
    {"input": f"text {n}", "output": "a", "provenance": "policy" if n == 7 else "teacher", "redactions": ""}
    for n in range(40)
]


def reply(request_id: str, output: str | None, number: int = 0):
    teacher = None if output is None else Answer(output=output, confidence=1.0, model="t", latency_ms=1.0)
    return completed(number, "a", "x", request_id=request_id, purpose="gate", teacher=teacher, student=None)


def test_turns_come_so_many_times_a_day_and_may_be_switched_off() -> None:
    turns = [turn_of(TASK, T0 + timedelta(minutes=minute)) for minute in range(0, 180, 20)]
    assert len(set(turns)) == 3
    assert turn_of(make_task(drift={"teacher_checks_per_day": 0}), T0) is None


def test_a_turn_asks_one_whole_teacher_answer_and_the_same_one_again() -> None:
    found = [check(TASK, turn, ROWS) for turn in range(300)]
    again = check(TASK, 0, ROWS)
    assert found[0] is not None
    assert again is not None
    assert (again[0].id, again[0].input, again[1]) == (found[0][0].id, found[0][0].input, "a")
    texts = {request.input for request, _ in (f for f in found if f)}
    assert len(texts) > 30
    assert "text 7" not in texts
    assert (again[0].purpose, again[0].pin) == ("gate", "teacher")
    assert check(TASK, 1, [row | {"redactions": "email"} for row in ROWS]) is None


def test_each_answer_counts_once_and_failures_count_for_nothing() -> None:
    state = asked(asked(InputWatch(), 1, ("c1", "a")), 2, ("c2", "a"))
    replies = [reply("c1", "b"), reply("c1", "b"), reply("c2", None), reply("other", "b")]
    state = answered(TASK, state, replies)
    assert state.pending == ()
    assert state.rises["teacher"].detector is not None
    assert (state.rises["teacher"].detector["exceeded"], state.rises["teacher"].detector["detector"]["n"]) == (1, 1)
    assert answered(TASK, state, replies) == state


def test_answers_are_compared_as_the_task_compares_them() -> None:
    state = asked(InputWatch(), 1, ("c1", "a"))
    same = answered(TASK, state, [reply("c1", "A")], lambda before, now: before == now.lower())
    differing = answered(TASK, state, [reply("c1", "A")])
    counted = [(found.rises["teacher"].detector or {})["exceeded"] for found in (same, differing)]
    assert counted == [0, 1]


def test_only_so_many_checks_wait_for_an_answer() -> None:
    state = InputWatch()
    for turn in range(PENDING + 10):
        state = asked(state, turn, (f"c{turn}", "a"))
    assert len(state.pending) == PENDING
    assert state.pending[0][0] == "c10"
    assert asked(state, 99, None).pending == state.pending


def test_a_teacher_that_changed_its_mind_is_suspected_and_a_steady_one_is_not() -> None:
    def after(different: int, of: int, checks: int) -> InputWatch:
        state = InputWatch()
        for number in range(checks):
            state = asked(state, number, (f"c{number}", "a"))
            state = answered(TASK, state, [reply(f"c{number}", "b" if number % of < different else "a")])
        return state

    assert after(1, 50, 600).suspicions == ()
    [suspicion] = after(1, 3, 60).suspicions
    assert suspicion.kind == "teacher"
    assert suspicion.statistic >= suspicion.alarm_level
    assert "recorded answers" in suspicion.note
