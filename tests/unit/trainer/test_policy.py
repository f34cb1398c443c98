"""When the trainer spends, and on what: the whole life of a task, decided without Kafka, Redis or a clock."""

from __future__ import annotations

import pytest

from services.trainer.policy import Counts, decide, student_id_of
from services.trainer.state import TaskState, fold
from stillhouse.events import TrainingFailed, TrainingRequested
from tests.unit.trainer.tasks import at, drift, gate_failed, make_task, route, trained

TASK = make_task()
ENOUGH = Counts(total=1000, new=1000)


def folded(*events, state: TaskState | None = None) -> TaskState:
    state = state or TaskState()
    for event in events:
        state = fold(state, event, TASK)
    return state


def test_it_collects_until_there_are_enough_examples_and_then_trains_the_cheapest() -> None:
    few = decide(TASK, TaskState(), Counts(99, 99))
    assert (few.strategy, few.plan) == ("collecting", None)
    enough = decide(TASK, TaskState(), Counts(100, 100))
    assert enough.plan is not None
    assert enough.plan.rung == 0


def test_a_task_without_students_is_never_trained() -> None:
    teacher = {"kind": "openai", "model": "big", "usd_per_call": 0.01}
    task = make_task(kind="generate", labels=(), students=(), teacher=teacher)
    for state in (
        TaskState(),
        fold(TaskState(), TrainingRequested(task="intents", reason="now", requested_by="me"), task),
    ):
        decision = decide(task, state, ENOUGH)
        assert (decision.strategy, decision.plan) == ("no_change", None)
        assert "no student" in decision.reason


def test_deciding_twice_plans_the_same_job_and_the_same_student() -> None:
    first, second = (decide(TASK, TaskState(), ENOUGH).plan for _ in range(2))
    assert first == second
    assert first is not None
    assert student_id_of(TASK, first.job_id, 0) == student_id_of(TASK, first.job_id, 0)
    assert student_id_of(TASK, first.job_id, 0).startswith("intents-hashed_ngrams-")
    assert student_id_of(TASK, "other", 0) != student_id_of(TASK, first.job_id, 0)


def test_reasons_do_not_change_with_every_example() -> None:
    assert {decide(TASK, TaskState(), Counts(n, n)).reason for n in range(99)} == {
        decide(TASK, TaskState(), Counts(0, 0)).reason
    }


def test_a_running_job_a_judged_student_and_a_live_one_each_hold_the_next_training() -> None:
    for state in (
        TaskState(job_id="j"),
        folded(trained("s1", 1)),
        folded(trained("s1", 1), route(1, 2, live="s1")),
    ):
        assert decide(TASK, state, ENOUGH).plan is None


def test_a_live_student_is_a_distilled_task() -> None:
    state = folded(trained("s1", 1), route(1, 2, candidate="s1"), route(2, 3, live="s1"))
    assert decide(TASK, state, ENOUGH).strategy == "distilled"
    assert state.judging is None


def test_a_failed_gate_climbs_the_ladder_at_once_and_at_its_end_collects() -> None:
    state = folded(trained("s1", 1), gate_failed("s1", 2))
    climbing = decide(TASK, state, Counts(100, 0))
    assert climbing.plan is not None
    assert climbing.plan.rung == 1
    state = folded(trained("s2", 3, rung=1), gate_failed("s2", 4), state=state)
    assert state.since == at(4)
    assert decide(TASK, state, Counts(1000, 79)).plan is None
    again = decide(TASK, state, Counts(1000, 80))
    assert again.plan is not None
    assert again.plan.rung == 0
    assert again.plan.job_id != climbing.plan.job_id


def test_an_undecided_gate_counts_as_failed_only_when_it_is_final() -> None:
    open_, final = (
        gate_failed("s1", 2).model_copy(update={"verdict": "undecided", "final": final}) for final in (False, True)
    )
    assert folded(trained("s1", 1), open_).judging == "s1"
    assert folded(trained("s1", 1), final).rung == 1


def test_after_drift_it_waits_for_new_examples_and_says_that_the_teacher_is_back() -> None:
    state = folded(trained("s1", 1), route(1, 2, live="s1"), drift("s1", 10), route(2, 11, retired=["s1"]))
    waiting = decide(TASK, state, Counts(5000, 79))
    assert (waiting.strategy, waiting.plan) == ("fallback_teacher", None)
    assert state.since == at(10)
    assert decide(TASK, state, Counts(5000, 80)).plan is not None
    state = folded(trained("s2", 12), route(3, 14, live="s2"), state=state)
    assert not state.drifted
    assert decide(TASK, state, ENOUGH).strategy == "distilled"


def test_the_route_may_change_before_the_alarm_is_heard() -> None:
    alarm = drift("s1", 10)
    state = folded(trained("s1", 1), route(1, 2, live="s1"), route(2, 11, retired=["s1"]), alarm)
    assert state.drifted
    assert state.cause_id == alarm.id


def test_an_old_alarm_does_not_take_out_the_successor() -> None:
    state = folded(trained("s1", 1), route(1, 2, live="s1"), trained("s2", 12), route(3, 14, live="s2"))
    assert folded(drift("s1", 10), state=state).live == "s2"


def test_the_same_event_twice_changes_nothing() -> None:
    events = [trained("s1", 1), route(1, 2, live="s1"), drift("s1", 10)]
    state = folded(*events)
    after = folded(route(2, 11), trained("s2", 12), route(3, 14, live="s2"), state=state)
    assert folded(*events, state=after) == after


def test_a_failed_training_waits_for_new_examples() -> None:
    failed = TrainingFailed(time=at(3), task="intents", job_id="j", architecture="hashed_ngrams", error="e")
    state = folded(failed, state=TaskState(job_id="j"))
    assert (state.job_id, state.cause_id) == (None, "j")
    assert decide(TASK, state, Counts(1000, 10)).plan is None
    assert decide(TASK, state, Counts(1000, 80)).plan is not None


def test_an_operators_request_trains_now_and_the_architecture_asked_for() -> None:
    asked = TrainingRequested(task="intents", requested_by="me", reason="r", architecture="cut_encoder")
    state = folded(trained("s1", 1), route(1, 2, live="s1"), asked)
    plan = decide(TASK, state, Counts(60, 0)).plan
    assert plan is not None
    assert (plan.rung, plan.cause_id) == (1, asked.id)
    assert decide(TASK, state, Counts(49, 0)).plan is None


@pytest.mark.parametrize(
    ("task", "state"),
    [
        (make_task(criticality="high"), TaskState()),
        (make_task(teacher={"seed": "s", "usd_per_call": 0.0}, budget={"min_saving_usd": 1.0}), TaskState()),
        (TASK, TaskState(pinned=True)),
    ],
    ids=["critical", "does not pay", "pinned"],
)
def test_what_must_or_need_not_be_distilled_is_left_alone(task, state) -> None:
    decision = decide(task, state, ENOUGH)
    assert (decision.strategy, decision.plan) == ("no_change", None)


def test_an_operator_who_takes_the_student_out_starts_over() -> None:
    out = route(2, 5, retired=["s1"], changed_by="operator")
    state = folded(trained("s1", 1), route(1, 2, live="s1"), out)
    assert (state.live, state.since, state.cause_id, state.drifted) == (None, at(5), out.id, False)
