"""Whether to spend on a student now: a function of the task, what is known of it, and how many examples there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from services.trainer.next_rung import sentence
from services.trainer.state import TaskState
from stillhouse.economics import pays
from stillhouse.events import Strategy, follow_id
from stillhouse.tasks import LanguageModel, Task

LONGEST_WAIT: Final = 16  # times `min_new_examples`
FEWEST = 50  # examples without which nothing can be trained, even when asked for


@dataclass(frozen=True, slots=True)
class Counts:
    """Recorded examples: all of them, and those after `TaskState.since`."""

    total: int
    new: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A training to enqueue. `job_id` follows from the cause, so deciding twice plans the same job."""

    job_id: str
    rung: int
    cause_id: str
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to spend, why, the numbers behind it, and the job where there is one."""

    strategy: Strategy
    reason: str
    numbers: dict[str, float] = field(default_factory=dict)
    plan: Plan | None = None


def decide(task: Task, state: TaskState, counts: Counts) -> Decision:
    """The budget decision for `task`. Reasons hold no counts: they change only when the decision does."""
    numbers = {"examples": float(counts.total), "new_examples": float(counts.new)}
    # Without a student the teacher answers either because there never was one, or because it was taken back.
    waiting: Strategy = "distilled" if state.live else ("fallback_teacher" if state.drifted else "collecting")
    if task.criticality == "high":
        return Decision("no_change", 'the task is marked criticality = "high": only the teacher answers', numbers)
    if not task.students:
        return Decision("no_change", "the task declares no student: the teacher answers everything", numbers)
    if state.job_id is not None:
        return Decision(waiting, "a student is being trained", numbers)
    if state.forced is not None:
        if counts.total < FEWEST:
            return Decision(waiting, f"a student was asked for, but fewer than {FEWEST} examples are recorded", numbers)
        rung = _rung_of(task, state.forced.architecture)
        return Decision(waiting, "a student was asked for", numbers, _plan(task, rung, state.forced.cause_id))
    if state.pinned:
        return Decision("no_change", "an operator pinned the task to the teacher", numbers)
    if state.judging is not None:
        return Decision(waiting, f"student {state.judging} is being judged", numbers)
    if state.live is not None:
        return _serving(task, state, numbers)
    payback = best_case(task)
    numbers |= {"best_case_saving_usd": payback}
    if payback < task.budget.min_saving_usd:
        return Decision(
            "no_change",
            f"even a student that answered everything would not save {task.budget.min_saving_usd:g} USD over "
            f"{task.budget.horizon_requests:,} requests",
            numbers,
        )
    plan = _plan(task, state.rung, state.cause_id, state.changes)
    if state.climbing:
        why = f"the candidate before {_name(task, plan)} was turned away: {state.why or 'the next rung'}"
        return Decision(waiting, why, numbers, plan)
    needed = task.budget.min_examples if state.since is None else _new_examples(task, state)
    have = counts.total if state.since is None else counts.new
    numbers |= {"needed": float(needed)}
    if have < needed:
        reason = (
            f"{_drifts(state)}: the teacher answers until enough new examples are recorded"
            if state.drifted
            else "too few examples are recorded"
            if state.since is None
            else "no candidate held: collecting new examples"
        )
        return Decision(waiting, reason, numbers)
    return Decision(waiting, f"enough examples, and it pays: training {_name(task, plan)}", numbers, plan)


def _serving(task: Task, state: TaskState, numbers: dict[str, float]) -> Decision:
    reason, above = f"student {state.live} serves", state.live_rung + 1
    if state.live_next_cpu_s is not None and above < len(task.students):
        following, usd = task.students[above], state.live_next_cpu_s / 3600 * task.budget.usd_per_cpu_hour
        if isinstance(following, LanguageModel):
            reason = f"{reason}; {sentence(following, usd)}"
            numbers = numbers | {"next_rung_usd": usd}
    return Decision("distilled", reason, numbers)


def best_case(task: Task) -> float:
    """USD saved over the horizon by a free student that serves everything, audits taken off."""
    budget = task.budget
    return float(pays(1.0, task.audit.pi, task.teacher.usd_per_call, 0.0, budget.horizon_requests, 0.0).net_saving_usd)


def student_id_of(task: Task, job_id: str, rung: int) -> str:
    """The id of the one student that `job_id` makes."""
    architecture = task.students[rung].architecture
    return f"{task.name}-{architecture}-{follow_id(job_id, 'student', architecture)[:8]}"


def _new_examples(task: Task, state: TaskState) -> int:
    """Examples to wait for: twice as many for each student after the first, in a row, that drifted soon.

    Where traffic turns to and fro, students for half of it would come and go; a longer wait shows both halves to the
    next one, and costs the teacher's price at most.
    """
    return task.budget.min_new_examples * min(LONGEST_WAIT, 1 << max(0, state.short_lives - 1))


def _drifts(state: TaskState) -> str:
    if state.short_lives < 2:
        return "the live student drifted"
    return f"{state.short_lives} students in a row drifted soon, so that the wait is longer"


def _plan(task: Task, rung: int, cause_id: str, changes: dict[str, Any] | None = None) -> Plan:
    return Plan(follow_id(cause_id, "training.job", f"{task.key}/{rung}"), rung, cause_id, changes or {})


def _rung_of(task: Task, architecture: str | None) -> int:
    rungs = (i for i, candidate in enumerate(task.students) if architecture in (None, candidate.architecture))
    return next(rungs, 0)


def _name(task: Task, plan: Plan) -> str:
    return task.students[plan.rung].architecture
