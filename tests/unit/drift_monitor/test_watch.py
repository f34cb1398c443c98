"""One student's test: when it alarms, what it says, and that it stops."""

from __future__ import annotations

import random

from services.drift_monitor.watch import EXAMPLES, Watch, alarm, count
from tests.unit.drift_monitor.events import audit
from tests.unit.trainer.tasks import make_task

TASK = make_task(drift={"average_run_length": 10_000})


def stream(n: int, rate: float, seed: int = 0) -> list[tuple[str, bool]]:
    draw = random.Random(seed)
    return [(f"request-{number}", draw.random() < rate) for number in range(n)]


def test_a_student_that_keeps_its_promise_raises_no_alarm() -> None:
    state = count(Watch.start(TASK), stream(2000, 0.02), 200)
    assert not state.test.alarm
    assert state.test.n == 2000
    assert len(state.recent) == 200


def test_a_student_that_breaks_it_raises_one_with_its_evidence_and_stops() -> None:
    good = count(Watch.start(TASK), stream(500, 0.02), 100)
    broken = [(f"broken-{number}", number % 3 == 0) for number in range(300)]
    state = count(good, broken, 100)
    assert state.test.alarm
    event = alarm(state, audit(1))
    assert 500 < event.audits < 560
    assert event.statistic >= event.alarm_level
    assert event.window == 100
    assert event.lower < event.estimate < 0.95
    losses = [request_id for request_id, loss in state.recent if loss]
    assert event.example_ids == losses[::-1]
    assert event.example_ids[0].startswith("broken-")
    assert count(state, broken, 100) == state


def test_an_alarm_repeats_its_id_and_another_student_has_another() -> None:
    state = count(Watch.start(TASK), [(f"r{number}", True) for number in range(100)], 200)
    assert alarm(state, audit(1)).id == alarm(state, audit(2)).id
    assert alarm(state, audit(1, student_id="s2")).id != alarm(state, audit(1)).id
    wide = state.model_copy(update={"recent": tuple((f"r{number}", True) for number in range(200))})
    assert len(alarm(wide, audit(1)).example_ids) == EXAMPLES


def test_counting_in_batches_or_after_storage_is_the_same() -> None:
    audits = stream(300, 0.08, seed=3)
    at_once = count(Watch.start(TASK), audits, 50)
    state = Watch.start(TASK)
    for start in range(0, 300, 7):
        state = Watch.model_validate_json(count(state, audits[start : start + 7], 50).model_dump_json())
    assert state == at_once
