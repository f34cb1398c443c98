"""Opens gates for new students, looks again when cases arrive, and says every verdict once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog
from opentelemetry import trace

from services.validator.lineage import EVALUATED_FILE
from services.validator.verdicts import Verdicts
from stillhouse.bus.jobs import MAX_ATTEMPTS, RESULT_FILE, Job, JobQueue, read_json, run_process, write_json
from stillhouse.events import Condition, CostIncurred, Event, Measured, StudentEvaluated, StudentTrained, follow_id, now
from stillhouse.review.answers import count_opinions, folder_of_student
from stillhouse.store import Store
from stillhouse.tasks import Task
from stillhouse.telemetry import names
from stillhouse.telemetry.metrics import metrics
from stillhouse.telemetry.tracing import span_context_of, traceparent_of

MODULE: Final = "services.validator.job"
OUTCOME_FILE: Final = "outcome.json"  # of a round: its verdict is published
LOOK_AFTER: Final = 200  # new cases after which a gate looks again, however many it said it needs

Publish = Callable[[Event], Awaitable[None]]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Waiting:
    """An undecided gate: look again when `wanted` examples more than `counted` are recorded, or people said more.

    `told` is how often people had said something of the student's answers.
    """

    student: StudentTrained
    round: int
    counted: int
    wanted: int
    told: int = 0


class Gates:
    """The gates that need the student to run: offline, and the replay that ends shadow.

    A gate is a folder `<home>/jobs/<gate id>/`; each look at it is a job of its own in `rounds/<number>/`.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        store: Store,
        queue: JobQueue,
        verdicts: Verdicts,
        publish: Publish,
        home: Path,
        *,
        lease_s: float = 15.0,
        check_s: float = 2.0,
    ) -> None:
        self._tasks = tasks
        self._store = store
        self.queue = queue
        self._verdicts = verdicts
        self._publish = publish
        self._home = home.resolve()
        self._lease_s = lease_s
        self._check_s = check_s
        self._waiting: dict[str, Waiting] = {}
        self._undecided: dict[str, StudentTrained] = {}  # offline gates, waiting or at work
        self.to_log: asyncio.Queue[Path] = asyncio.Queue()  # folders of decided gates, for the lineage loop

    async def open_offline(self, student: StudentTrained) -> None:
        """Queue the offline gate of a new student; the same event twice queues it once."""
        await self._open("offline", student, {})

    async def open_replay(self, student: StudentTrained, request_ids: list[str], conditions: list[Condition]) -> None:
        """Queue the replay of `request_ids`, which with `conditions` makes the shadow verdict."""
        told = {"request_ids": request_ids, "conditions": [condition.model_dump() for condition in conditions]}
        await self._open("shadow", student, told)

    async def _open(self, kind: str, student: StudentTrained, told: dict[str, Any]) -> None:
        task = self._tasks.get(student.task_key)
        if task is None:
            log.warning("unknown_task", task=student.task_key, student_id=student.student_id)
            return
        gate_id = follow_id(student.id, f"gate.{kind}", student.student_id)
        gate = self._home / "jobs" / gate_id
        gate.mkdir(parents=True, exist_ok=True)
        if not (gate / "job.json").exists():
            job = told | {
                "kind": kind,
                "task": task.model_dump(mode="json"),
                "student": student.model_dump(mode="json"),
                "home": str(self._home),
                "traceparent": traceparent_of(trace.get_current_span()),
            }
            await asyncio.to_thread(write_json, gate / "job.json", job)
        if await self._look(gate_id, 0) and kind == "offline":
            self._show(gate_id, student)

    async def _look(self, gate_id: str, number: int) -> bool:
        return await self.queue.enqueue(f"{gate_id}.{number}", {"gate": gate_id, "round": number})

    def _show(self, gate_id: str, student: StudentTrained, *, decided: bool = False) -> None:
        """Keep the metric of the longest undecided offline gate of the student's task."""
        if decided:
            self._undecided.pop(gate_id, None)
        else:
            self._undecided[gate_id] = student
        began: list[datetime] = [one.time for one in self._undecided.values() if one.task_key == student.task_key]
        metrics().set_gate(student.task_key, "offline", min(began, default=None))

    async def recover(self) -> None:
        """Take up every gate without a final verdict: Redis may have been lost, and this process is new."""
        for gate_id, number, outcome, job in await asyncio.to_thread(open_gates, self._home):
            student = StudentTrained.model_validate(job["student"])
            if job["kind"] == "offline":
                self._show(gate_id, student)
            if outcome is None:
                await self._look(gate_id, number)
            else:
                self._waiting[gate_id] = Waiting(
                    student, number, outcome["counted"], outcome["wanted"], outcome.get("told", 0)
                )

    async def check_regularly(self) -> None:
        """Look again at waiting gates for which enough examples were recorded, until cancelled."""
        while True:
            await asyncio.sleep(self._check_s)
            try:
                await self.check()
            except Exception:
                log.exception("gate_check_failed")

    async def check(self) -> None:
        """One pass over the waiting gates."""
        for gate_id, waiting in list(self._waiting.items()):
            student = waiting.student
            count = await asyncio.to_thread(self._store.count_examples, student.task_key, student.dataset.cutoff)
            told = await asyncio.to_thread(count_opinions, folder_of_student(self._home, student.student_id))
            if count - waiting.counted >= waiting.wanted or told > waiting.told:
                # Out of the list first: the next round may end, and wait anew, before this line is left.
                del self._waiting[gate_id]
                try:
                    await self._look(gate_id, waiting.round + 1)
                except BaseException:
                    self._waiting[gate_id] = waiting
                    raise

    async def abandon(self, student_ids: set[str]) -> None:
        """Close the waiting gates of students that must not come back."""
        for gate_id, waiting in list(self._waiting.items()):
            if waiting.student.student_id in student_ids:
                self._waiting.pop(gate_id)
                self._show(gate_id, waiting.student, decided=True)
                path = self._home / "jobs" / gate_id / "abandoned.json"
                await asyncio.to_thread(write_json, path, {"student_id": waiting.student.student_id})

    async def run(self, job: Job) -> None:
        """Run one look to its end, or back into the queue. A verdict is published before it is marked."""
        gate_id, number = str(job.payload["gate"]), int(job.payload["round"])
        gate = self._home / "jobs" / gate_id
        told = await asyncio.to_thread(read_json, gate / "job.json")
        if told is None:
            await self.queue.fail(job, f"{gate}: job.json is missing")
            return
        task, student = Task.model_validate(told["task"]), StudentTrained.model_validate(told["student"])
        parent = span_context_of(told.get("traceparent"))
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent)) if parent else None
        with trace.get_tracer("stillhouse.validator").start_as_current_span(names.SPAN_GATE, context=context) as span:
            span.set_attribute(names.ATTR_TASK, task.key)
            span.set_attribute(names.ATTR_STUDENT_ID, student.student_id)
            span.set_attribute(names.ATTR_STAGE, told["kind"])
            folder = gate / "rounds" / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / RESULT_FILE).exists():
                error = await self._attempt(job, folder)
                if error is None:
                    return  # it is in the queue again
                if error:
                    await asyncio.to_thread(write_json, folder / RESULT_FILE, {"broken": error, "cpu_seconds": 0.0})
            result = await asyncio.to_thread(read_json, folder / RESULT_FILE)
            # Else it was said by a worker that died, or lost Redis, before the queue knew; the next look may be over.
            if not (folder / OUTCOME_FILE).exists():
                await self._end(gate_id, number, folder, told["kind"], task, student, told, result)
            await self.queue.complete(job)

    async def _attempt(self, job: Job, folder: Path) -> str | None:
        """'' where a result is there, the error where there never will be one, None where it is tried again."""
        if job.exhausted:
            return job.last_error or "its worker died each time it was tried"
        exit_ = await run_process(MODULE, folder, self.queue, job, lease_s=self._lease_s)
        if not exit_.error or exit_.permanent or job.attempts >= MAX_ATTEMPTS:
            return exit_.error
        log.warning("gate_attempt_failed", job_id=job.job_id, attempt=job.attempts, error=exit_.error)
        await self.queue.retry(job, exit_.error, delay_s=float(job.attempts))
        return None

    async def _end(
        self,
        gate_id: str,
        number: int,
        folder: Path,
        kind: str,
        task: Task,
        student: StudentTrained,
        told: dict[str, Any],
        result: dict[str, Any],
    ) -> None:
        final, wanted = True, 0
        if kind == "shadow":
            await self._verdicts.replayed(task, student, told["conditions"], result)
        elif "broken" in result:
            await self._verdicts.broken(task, student, "offline", result["broken"])
        else:
            await self._verdicts.offline(task, student, result, number)
            judgement = result["judgement"]
            final = bool(judgement["final"])
            wanted = min(LOOK_AFTER, judgement["needs_more"] or 1)
            if final:
                evaluated = _evaluated(task, student, result)
                await self._publish(evaluated)
                gate = self._home / "jobs" / gate_id
                await asyncio.to_thread(write_json, gate / EVALUATED_FILE, evaluated.model_dump(mode="json"))
                await self.to_log.put(gate)
        look, judge_usd = f"{gate_id}.{number}", float(result.get("judge_usd", 0.0))
        await self._publish(_cost(task, student, look, kind, float(result["cpu_seconds"]), judge_usd))
        counted, heard = int(result.get("counted", 0)), int(result.get("told", 0))
        outcome = {"final": final, "counted": counted, "wanted": wanted, "told": heard}
        await asyncio.to_thread(write_json, folder / OUTCOME_FILE, outcome)
        if not final:
            self._waiting[gate_id] = Waiting(student, number, counted, wanted, heard)
        elif kind == "offline":
            self._show(gate_id, student, decided=True)


def open_gates(home: Path) -> list[tuple[str, int, dict[str, Any] | None, dict[str, Any]]]:
    """Gates without a final verdict: (gate id, last round, its outcome if it has one, job). Blocking."""
    found = []
    for path in sorted((home / "jobs").glob("*/job.json")):
        job = read_json(path)
        if not job or job.get("kind") not in ("offline", "shadow") or (path.parent / "abandoned.json").exists():
            continue
        rounds = [int(folder.name) for folder in (path.parent / "rounds").glob("*") if folder.name.isdigit()]
        number = max(rounds, default=0)
        outcome = read_json(path.parent / "rounds" / str(number) / OUTCOME_FILE)
        if outcome is None or not outcome["final"]:
            found.append((path.parent.name, number, outcome, job))
    return found


def _evaluated(task: Task, student: StudentTrained, result: dict[str, Any]) -> StudentEvaluated:
    judgement = result["judgement"]
    conditions = [Condition.model_validate(condition) for condition in judgement["conditions"]]
    return StudentEvaluated(
        id=follow_id(student.id, StudentEvaluated.TYPE, student.student_id),
        tenant=task.tenant,
        task=task.name,
        student_id=student.student_id,
        n=judgement["n"],
        metrics=result["metrics"],
        dataset_version=student.dataset.version,
        report_uri=result["report_uri"],
        verdict=judgement["verdict"],
        teacher_version=student.teacher_version,
        agreement=_measured(conditions, "agreement"),
        human_win_rate=_measured(conditions, "win rate"),
        hallucination_rate=_measured(conditions, "hallucination"),
        cost_reduction=_measured(conditions, "cost"),
        conditions=conditions,
        golden_version=result.get("golden_version"),
    )


def _measured(conditions: list[Condition], name: str) -> Measured | None:
    for one in conditions:
        if one.name == name and one.estimate is not None:
            return Measured(estimate=one.estimate, lower=one.lower, upper=one.upper, n=one.n)
    return None


def _cost(
    task: Task, student: StudentTrained, look: str, kind: str, cpu_seconds: float, judge_usd: float
) -> CostIncurred:
    return CostIncurred(
        id=follow_id(look, CostIncurred.TYPE, "gate"),
        tenant=task.tenant,
        task=task.name,
        cause_id=look,
        kind="gate",
        usd=cpu_seconds / 3600 * task.usd_per_cpu_hour(now()) + judge_usd,
        cpu_seconds=cpu_seconds,
        note=f"{kind} gate of {student.student_id}" + (f", {judge_usd:g} USD of it the judge's" if judge_usd else ""),
    )
