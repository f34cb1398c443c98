"""Turns decisions into jobs, and ended jobs into events: each exactly one student or one failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog
from opentelemetry import trace

from services.trainer.control import BudgetControl
from services.trainer.lineage import wish_aliases
from services.trainer.policy import Counts, Decision, Plan, decide, student_id_of
from services.trainer.rubric import RUBRIC_FILE
from services.trainer.state import Input, TaskState, fold
from services.trainer.states import OUTCOME_FILE, States, end_of, unfinished
from stillhouse.bus.jobs import MAX_ATTEMPTS, RESULT_FILE, Exit, Job, JobQueue, read_json, run_process, write_json
from stillhouse.events import (
    ArtefactRef,
    BudgetEvaluated,
    CostIncurred,
    DatasetRef,
    Event,
    RouteChanged,
    StudentTrained,
    TrainingFailed,
    TrainingStarted,
    follow_id,
)
from stillhouse.store import Store
from stillhouse.tasks import Task
from stillhouse.telemetry import names
from stillhouse.telemetry.metrics import metrics
from stillhouse.telemetry.tracing import span_context_of, traceparent_of

SOURCE: Final = "/services/trainer"
MODULE: Final = "services.trainer.job"

Publish = Callable[[Event], Awaitable[None]]
log = structlog.get_logger()


class Training:
    """The trainer's one object: handlers tell it what happened, its loops decide and train."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        states: States,
        store: Store,
        queue: JobQueue,
        publish: Publish,
        home: Path,
        control: BudgetControl,
        *,
        lease_s: float = 15.0,
        evaluate_s: float = 1.0,
    ) -> None:
        self.tasks = tasks
        self._states = states
        self._store = store
        self._queue = queue
        self._publish = publish
        self._control = control
        self._home = home.resolve()
        self._lease_s = lease_s
        self._evaluate_s = evaluate_s
        self.dirty: set[str] = set(tasks)
        self._parents: dict[str, str] = {}  # task key -> traceparent of the last control event
        self.to_log: asyncio.Queue[Path] = asyncio.Queue()  # folders of ended jobs, for the lineage loop
        for outcome in ("trained", "failed"):  # from 0: a first failure is a rise that an alert sees
            metrics().training_jobs.labels(outcome)

    def mark(self, task_key: str) -> None:
        """Something changed: look at the task soon. Unknown tasks are passed over."""
        if task_key in self.tasks:
            self.dirty.add(task_key)

    async def take(self, event: Input) -> None:
        """Fold a control event into its task's state; the same event twice changes nothing."""
        task = self.tasks.get(event.task_key)
        if task is None:
            log.warning("unknown_task", task=event.task_key, event_type=event.TYPE)
            return
        await self._states.change(task, lambda state: fold(state, event, task))
        if isinstance(event, RouteChanged):
            for folder in await asyncio.to_thread(wish_aliases, event, self._home):
                await self.to_log.put(folder)
        parent = traceparent_of(trace.get_current_span())
        if parent is not None:
            self._parents[task.key] = parent
        self.dirty.add(task.key)

    async def charge(self, event: CostIncurred) -> None:
        """An overhead counts towards its task's limits. Unknown tasks are passed over."""
        task = self.tasks.get(event.task_key)
        if task is not None:
            await self._control.charge(task, event)
            self.mark(task.key)

    async def state(self, task: Task) -> TaskState:
        """What is known of `task` now."""
        return await self._states.get(task)

    async def recover(self) -> None:
        """Enqueue every job whose end was never published, and look at every task: Redis may have been lost."""
        for job_id, _ in await asyncio.to_thread(unfinished, self._home):
            await self._queue.enqueue(job_id, {})
        self.dirty |= set(self.tasks)

    async def evaluate_regularly(self) -> None:
        """Look at every task that was marked, at most once per `evaluate_s`, until cancelled."""
        while True:
            dirty, self.dirty = self.dirty, set()
            for key in sorted(dirty):
                try:
                    await self.evaluate(self.tasks[key])
                except Exception:
                    log.exception("evaluation_failed", task=key)
                    self.dirty.add(key)
            await asyncio.sleep(self._evaluate_s)

    async def evaluate(self, task: Task) -> Decision:
        """Decide for one task, say so where the decision is new, and enqueue its job where it has one."""
        state = await self._states.get(task)
        decision = decide(task.priced(datetime.now(UTC)), state, await self._count(task, state))
        decision = await self._control.weigh(task, decision, state.live)
        announced = f"{state.cause_id}\n{decision.strategy}\n{decision.reason}"
        if announced != state.announced:
            await self._publish(
                BudgetEvaluated(
                    id=follow_id(
                        state.cause_id, BudgetEvaluated.TYPE, f"{task.key}\n{state.announcements}\n{announced}"
                    ),
                    tenant=task.tenant,
                    task=task.name,
                    strategy=decision.strategy,
                    reason=decision.reason,
                    numbers=decision.numbers,
                )
            )
            said = {"announced": announced, "announcements": state.announcements + 1}
            await self._states.change(task, lambda state: state.model_copy(update=said))
        if decision.plan is not None:
            await self._enqueue(task, state, decision.plan)
        elif state.job_id is not None:
            # Redis may have gone away between the state that names the job and the queue.
            await self._queue.enqueue(state.job_id, {})
        return decision

    async def _count(self, task: Task, state: TaskState) -> Counts:
        total = await asyncio.to_thread(self._store.count_examples, task.key)
        new = await asyncio.to_thread(self._store.count_examples, task.key, state.since) if state.since else total
        return Counts(total, new)

    async def _enqueue(self, task: Task, state: TaskState, plan: Plan) -> None:
        folder = self._home / "jobs" / plan.job_id
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "job.json").exists():  # planned before: its cutoff holds
            job = {
                "kind": "training",
                "job_id": plan.job_id,
                "student_id": student_id_of(task, plan.job_id, plan.rung),
                "task_key": task.key,
                "task": task.model_dump(mode="json"),
                "rung": plan.rung,
                "changes": plan.changes,
                "home": str(self._home),
                "cutoff": datetime.now(UTC).isoformat(),
                "since": state.changed_at.isoformat() if state.changed_at else None,
                "cause_id": plan.cause_id,
                "traceparent": self._parents.get(task.key),
            }
            await asyncio.to_thread(write_json, folder / "job.json", job)

        def queued(state: TaskState) -> TaskState:
            forced = None if state.forced and state.forced.cause_id == plan.cause_id else state.forced
            return state.model_copy(update={"job_id": plan.job_id, "forced": forced})

        await self._states.change(task, queued)
        await self._queue.enqueue(plan.job_id, {})
        self.dirty.add(task.key)

    async def run(self, job: Job) -> None:
        """Run one claimed job to its end, or back into the queue. An end is published before it is marked."""
        folder = self._home / "jobs" / job.job_id
        told: dict[str, Any] | None = await asyncio.to_thread(read_json, folder / "job.json")
        if told is None:
            await self._queue.fail(job, f"{folder}: job.json is missing")
            return
        task = Task.model_validate(told["task"])
        parent = span_context_of(told.get("traceparent"))
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent)) if parent else None
        tracer = trace.get_tracer("stillhouse.trainer")
        with tracer.start_as_current_span(names.SPAN_TRAINING, context=context) as span:
            span.set_attribute(names.ATTR_TASK, task.key)
            span.set_attribute(names.ATTR_JOB_ID, job.job_id)
            span.set_attribute(names.ATTR_STUDENT_ID, told["student_id"])
            await self._attempt(job, folder, told, task)

    async def _attempt(self, job: Job, folder: Path, told: dict[str, Any], task: Task) -> None:
        if outcome := await asyncio.to_thread(read_json, folder / OUTCOME_FILE):
            # Published by a worker that died, or lost Redis, before the task's state or the queue knew.
            ended = end_of(outcome)
            if task.key in self.tasks:
                await self.take(ended)
            if isinstance(ended, StudentTrained):
                await self._queue.complete(job)
                await self.to_log.put(folder)
            else:
                await self._queue.fail(job, ended.error)
            return
        if not (folder / RESULT_FILE).exists():
            if job.exhausted:
                error = job.last_error or "its worker died each time it was tried"
                await self._failed(job, folder, told, task, error)
                return
            exit_ = await self._supervise(job, folder, told, task)
            if exit_.error:
                log.warning("training_attempt_failed", job_id=job.job_id, attempt=job.attempts, error=exit_.error)
                if exit_.permanent or job.attempts >= MAX_ATTEMPTS:
                    await self._failed(job, folder, told, task, exit_.error)
                    return
                if exit_.out_of_memory:  # the next attempt takes less at a time
                    smaller = max(4, (told.get("batch_size") or task.students[told["rung"]].batch_size) // 2)
                    await asyncio.to_thread(write_json, folder / "job.json", told | {"batch_size": smaller})
                await self._queue.retry(job, exit_.error, delay_s=float(job.attempts))
                return
        await self._finished(job, folder, told, task)

    async def _supervise(self, job: Job, folder: Path, told: dict[str, Any], task: Task) -> Exit:
        """Run the job's process; say that training started as soon as its dataset is known."""
        announcing = asyncio.create_task(self._announce(folder, told, task))
        try:
            exit_ = await run_process(MODULE, folder, self._queue, job, lease_s=self._lease_s)
            if (folder / "dataset.json").exists():
                await announcing
            return exit_
        finally:
            announcing.cancel()

    async def _announce(self, folder: Path, told: dict[str, Any], task: Task) -> None:
        while True:
            dataset = await asyncio.to_thread(read_json, folder / "dataset.json")
            if dataset is not None:
                break
            await asyncio.sleep(0.1)
        await self._publish(
            TrainingStarted(
                id=follow_id(told["job_id"], TrainingStarted.TYPE, task.key),
                tenant=task.tenant,
                task=task.name,
                job_id=told["job_id"],
                student_id=told["student_id"],
                architecture=task.students[told["rung"]].architecture,
                n_examples=dataset["n_train"] + dataset["n_select"],
            )
        )

    async def _finished(self, job: Job, folder: Path, told: dict[str, Any], task: Task) -> None:
        result = await asyncio.to_thread(read_json, folder / RESULT_FILE)
        trained = StudentTrained(
            id=follow_id(job.job_id, StudentTrained.TYPE, told["student_id"]),
            time=result["time"],
            tenant=task.tenant,
            task=task.name,
            student_id=told["student_id"],
            job_id=job.job_id,
            architecture=task.students[told["rung"]].architecture,
            rung=told["rung"],
            changes=told.get("changes", {}),
            artefact=ArtefactRef.model_validate(result["artefact"]),
            dataset=DatasetRef.model_validate(result["dataset"]),
            teacher_version=result["teacher_version"],
            metrics=result["metrics"],
            about=result.get("about", {}),
            cpu_seconds=result["cpu_seconds"],
            mlflow_run_id=result.get("mlflow_run_id"),
        )
        await self._publish(trained)
        calls = sum(trained.metrics.get(name, 0.0) for name in ("reflection_usd", "judge_usd"))
        await self._publish(_cost(trained, task, result["cpu_seconds"], calls))
        await self._end(folder, task, trained)
        await self._queue.complete(job)
        await self.to_log.put(folder)
        metrics().training_jobs.labels("trained").inc()
        log.info("student_trained", student_id=trained.student_id, seconds=trained.metrics.get("wall_seconds"))

    async def _failed(self, job: Job, folder: Path, told: dict[str, Any], task: Task, error: str) -> None:
        failed = TrainingFailed(
            id=follow_id(job.job_id, TrainingFailed.TYPE, task.key),
            tenant=task.tenant,
            task=task.name,
            job_id=job.job_id,
            architecture=task.students[told["rung"]].architecture,
            error=error,
            attempts=min(job.attempts, MAX_ATTEMPTS),
        )
        await self._publish(failed)
        progress = await asyncio.to_thread(read_json, folder / "progress.json") or {}
        asked = await asyncio.to_thread(read_json, folder / RUBRIC_FILE) or {}
        await self._publish(_cost(failed, task, float(progress.get("cpu_seconds", 0.0)), float(asked.get("usd", 0.0))))
        await self._end(folder, task, failed)
        await self._queue.fail(job, error)
        metrics().training_jobs.labels("failed").inc()

    async def _end(self, folder: Path, task: Task, event: StudentTrained | TrainingFailed) -> None:
        outcome = {"task_key": task.key, "type": event.TYPE, "event": event.model_dump(mode="json"), "at": time.time()}
        await asyncio.to_thread(write_json, folder / OUTCOME_FILE, outcome)
        if task.key in self.tasks:
            await self.take(event)


def _cost(
    event: StudentTrained | TrainingFailed, task: Task, cpu_seconds: float, calls_usd: float = 0.0
) -> CostIncurred:
    return CostIncurred(
        id=follow_id(event.job_id, CostIncurred.TYPE, event.TYPE),
        tenant=task.tenant,
        task=task.name,
        cause_id=event.job_id,
        kind="training",
        usd=cpu_seconds / 3600 * task.usd_per_cpu_hour(event.time) + calls_usd,
        cpu_seconds=cpu_seconds,
        note=event.architecture,
    )
