"""Label-free tests of one student: quiet where nothing changes, a suspicion of the right kind where something does."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.drift_monitor.inputs import (
    BLOCK,
    BLOCKS,
    Buffers,
    InputWatch,
    audited,
    compared,
    counted,
    observe,
    said,
    settled,
    suspect,
)
from services.drift_monitor.novelty import Known
from stillhouse.tasks import Task
from tests.unit.drift_monitor.answers import answered, traffic
from tests.unit.trainer.tasks import T0, make_task

TASK = make_task(labels=("a", "b"), drift={"window": 100, "clear_after": 50})
TEXTS = [event.input for event in traffic(1500, seed=99)]


def follow(
    events,
    state: InputWatch | None = None,
    buffers: Buffers | None = None,
    known: Known | None = None,
    task: Task = TASK,
) -> tuple[InputWatch, Buffers]:
    state, buffers = state or InputWatch(), buffers or Buffers()
    seen = [observe(event, task, known) for event in events]
    return compared(task, counted(task, state, seen, known), buffers, seen, "s1")


def kinds(state: InputWatch) -> list[str]:
    return [suspicion.kind for suspicion in state.suspicions]


@pytest.fixture(scope="module")
def known() -> Known:
    found = Known.learn(TEXTS, 0.005)
    assert found is not None
    return found


def test_traffic_that_stays_as_it_is_raises_nothing(known) -> None:
    state, _ = follow(traffic(3000, seed=1), known=known)
    assert state.windows == 29
    assert kinds(state) == []


def test_batches_of_any_size_give_the_same_state(known) -> None:
    events = traffic(450, seed=2)
    at_once, rows = follow(events, known=known)
    state, buffers = InputWatch(), Buffers()
    for start in range(0, 450, 37):
        state = InputWatch.model_validate_json(state.model_dump_json())
        state, buffers = follow(events[start : start + 37], state, buffers, known)
    assert state == at_once
    assert buffers == rows


def test_other_answers_other_words_and_unknown_words_are_told_apart(known) -> None:
    state, buffers = follow(traffic(100, seed=3), known=known)
    answers, _ = follow(traffic(100, seed=4, share_b=0.9), state, Buffers(buffers.reference), known)
    assert "outputs" in kinds(answers)
    words, _ = follow(traffic(100, seed=5, new=0.6), state, Buffers(buffers.reference), known)
    assert kinds(words) == ["novelty", "inputs"]
    [novelty, inputs] = words.suspicions
    assert "texts lie above" in novelty.note
    assert inputs.statistic <= inputs.alarm_level
    assert "MMD" in inputs.note


def test_a_few_new_subjects_are_found_by_novelty_alone(known) -> None:
    state, _ = follow(traffic(400, seed=6, new=0.25), known=known)
    assert kinds(state)[0] == "novelty"


def test_slower_and_dearer_answers_are_said_once_and_become_normal(known) -> None:
    reference = BLOCK * BLOCKS
    quiet = make_task(labels=("a", "b"), drift={"window": 5000})
    state, buffers = follow(traffic(reference, seed=7), task=quiet)
    assert kinds(state) == []
    slow = traffic(20 * BLOCK, seed=8, start=reference)
    slow = [event.model_copy(update={"latency_ms": 3 * event.latency_ms, "cost_usd": 0.00005}) for event in slow]
    state, _ = follow(slow, state, buffers, task=quiet)
    assert kinds(state) == ["latency", "cost"]
    for suspicion in state.suspicions:
        state = said(state, suspicion.number)
    assert kinds(state) == []
    assert state.rises["latency"].detector is None


def test_audits_clear_a_suspicion_and_the_pause_before_the_next_doubles() -> None:
    state = audited(InputWatch(rows=40, referred=True), 200, ["t1"])
    for turn in range(3):
        state = suspect(state, "inputs", 0.0001, 0.0005, 100, "n")
        state = suspect(state, "inputs", 0.0001, 0.0005, 100, "again")
        assert len(state.suspicions) == 1
        assert settled(TASK, state)[1] == []  # not said yet
        state = said(state, state.suspicions[0].number)
        state = audited(state, state.audits + 49, ["t1"])
        assert settled(TASK, state)[1] == []
        state = audited(state, state.audits + 1, ["t1"])
        state, gone = settled(TASK, state)
        assert [suspicion.kind for suspicion in gone] == ["inputs"]
        assert (state.rows, state.referred, state.pause) == (0, False, 100 * 2**turn)


def test_nothing_is_compared_while_a_change_is_suspected_or_during_the_pause() -> None:
    state, buffers = follow(traffic(100, seed=9))
    suspicious = suspect(state, "outputs", 0.0, 0.0, 100, "n")
    state, after = follow(traffic(300, seed=10), suspicious, Buffers(buffers.reference))
    assert (state.windows, state.rows, after.window) == (0, 0, b"")
    state, after = follow(traffic(150, seed=11), InputWatch(pause=100))
    assert (state.pause, state.rows) == (0, 50)


def test_another_teacher_is_noticed_once_and_so_is_its_return() -> None:
    state = audited(InputWatch(), 10, ["t1", "t1"])
    assert kinds(state) == []
    state = audited(state, 12, ["t1", "t2", "t2"])
    assert kinds(state) == ["teacher_version"]
    assert state.suspicions[0].note == "t2 answers; known were t1"
    assert audited(state, 14, ["t1", "t2"]).suspicions == state.suspicions


def test_requests_a_day_are_counted_by_their_own_times() -> None:
    hours = [answered(n, "a", "x", time=T0 + timedelta(hours=n / 2)) for n in range(40)]
    state, _ = follow(hours[:2])
    assert state.volume is not None
    assert state.volume.a_day() is None
    state, _ = follow(hours[2:], state)
    assert state.volume is not None
    assert state.volume.a_day() == pytest.approx(48, rel=0.05)
    next_day = [answered(100 + n, "a", "x", time=T0 + timedelta(days=1, hours=n)) for n in range(3)]
    back = [answered(200, "a", "x", time=T0)]
    state, _ = follow([*next_day, *back], state)
    assert state.volume is not None
    assert (state.volume.before, state.volume.today, state.volume.a_day()) == (40, 4, 40.0)
    late, _ = follow([answered(300, "a", "x", time=T0 + timedelta(days=9))], state)
    assert late.volume is not None
    assert late.volume.a_day() == 0.0


def test_no_false_suspicions_allowed_means_that_inputs_are_not_watched(known) -> None:
    off = make_task(labels=("a", "b"), drift={"window": 100, "false_suspicions": 0})
    state, buffers = follow(traffic(300, seed=12, new=1.0), known=None, task=off)
    assert (state.suspicions, state.rises, buffers) == ((), {}, Buffers())
    assert state.volume is not None


def test_too_few_texts_make_no_limit() -> None:
    assert Known.learn(TEXTS[:200], 0.005) is None
