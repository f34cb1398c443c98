"""The loop on traffic that turns to and fro: students that live shortly are followed by ever longer waits."""

from __future__ import annotations

import random

from services.trainer.policy import LONGEST_WAIT, Counts, decide
from services.trainer.state import TaskState, fold
from stillhouse.quality import ErrorDetector
from tests.unit.trainer.tasks import at, drift, make_task, route, trained


def play(stable_after: int, requests: int, turn: int, seed: int = 1) -> tuple[int, int, list[float]]:
    """Alarms, requests that a student served, and the waits (in examples), with the trainer's own decisions.

    The two regimes contradict each other: a student is right under the one that it was trained in alone.
    """
    task = make_task(drift={"stable_after": stable_after, "average_run_length": 10_000})
    draw, state = random.Random(seed), TaskState()
    alarms = served = examples = version = 0
    new, waits, knows, detector = 0, list[float](), None, ErrorDetector(task.gate.epsilon, 10_000)
    for number in range(requests):
        regime = number // turn % 2
        if knows is None:
            examples, new = examples + 1, new + 1
            decision = decide(task, state, Counts(examples, new))
            if decision.plan is None:
                continue
            waits.append(decision.numbers["needed"])
            student, version = f"s{version}", version + 1
            state = fold(state, trained(student, number), task)
            state = fold(state, route(version, number + 0.5, live=student), task)
            knows, detector = regime, ErrorDetector(task.gate.epsilon, 10_000)
            continue
        served += 1
        if draw.random() >= task.audit.pi:
            continue
        detector.update(draw.random() < (0.02 if knows == regime else 0.4))
        if detector.alarm:
            alarms, knows, new = alarms + 1, None, 0
            version += 1
            alarm = drift(f"s{version - 2}", number).model_copy(update={"audits": detector.n})
            state = fold(fold(state, alarm, task), route(version, number, live=None), task)
    return alarms, served, waits


def test_restless_traffic_makes_the_waits_longer_and_the_alarms_fewer() -> None:
    without, _, short = play(stable_after=1, requests=40_000, turn=800)
    with_, _, waits = play(stable_after=2000, requests=40_000, turn=800)
    assert set(short) == {80.0, 100.0}  # the first, and every other
    assert waits[:7] == [100.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 1280.0]
    assert set(waits[5:]) == {80.0 * LONGEST_WAIT}
    assert with_ <= 0.55 * without  # where a life is as long as a wait, every other change is slept through


def test_one_change_of_a_stable_task_waits_no_longer_than_before() -> None:
    alarms, served, waits = play(stable_after=1000, requests=40_000, turn=20_000)
    assert alarms == 1
    assert waits == [100.0, 80.0]
    assert served > 39_000


def test_a_long_life_forgets_the_short_ones() -> None:
    task = make_task(drift={"stable_after": 2000})
    state = TaskState()
    for number, audits in enumerate((100, 300, 1999, 2000, 50)):
        state = fold(state, route(2 * number + 1, number, live=f"s{number}"), task)
        state = fold(state, drift(f"s{number}", number + 0.5).model_copy(update={"audits": audits}), task)
    assert state.short_lives == 1
    assert state.changed_at == at(4.5)
    assert decide(task, state, Counts(5000, 80)).plan is not None
