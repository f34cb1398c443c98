"""Carries out a request's plan: the client's answer as soon as it is there, its audits when both sides have spoken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeGuard, cast

import structlog
from opentelemetry import trace

from services.router.parked import parked
from services.router.routing import Audit, Plan, plan
from services.router.spending import BudgetSpent, Spending
from stillhouse.bus.metering import Meter
from stillhouse.events import (
    Answer,
    Failure,
    InferenceAudited,
    InferenceCompleted,
    InferenceParked,
    InferenceRequested,
    RouteChanged,
    StudentRoute,
    follow_id,
)
from stillhouse.models.chat.completion import ChatModel, OnText
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import Model, ModelError
from stillhouse.models.rerank_request import RerankRequest
from stillhouse.models.rules import EscalationRules
from stillhouse.quality.agreement import exact
from stillhouse.quality.thresholds import SERVE_NOTHING
from stillhouse.store.redaction import redact
from stillhouse.tasks import Task
from stillhouse.tasks.comparators import Comparison
from stillhouse.telemetry import names
from stillhouse.telemetry.metrics import metrics

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answered:
    """The client's answer, and what gives the audits once they are complete (await it exactly once).

    `parked`: there is no answer yet, the request waits for its task's next budget; `completed` says why.
    """

    completed: InferenceCompleted
    audits: Callable[[], Awaitable[list[InferenceAudited]]]
    parked: InferenceParked | None = None


@dataclass(frozen=True, slots=True)
class _Said:
    """A model's answer, or why there is none (`code` as in `Failure`)."""

    answer: Answer | None
    code: str = ""
    error: str = ""
    until: datetime | None = None  # when to try again, where money was missing


class Answering:
    """Answers requests of all tasks. Whatever goes wrong is an answer too, never an exception."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        teachers: Mapping[str, Model | ChatModel],
        route_of: Callable[[str], RouteChanged | None],
        student_of: Callable[[StudentRoute], Model | ChatModel | None],
        spending: Spending,
        meter: Meter,
        comparisons: Mapping[str, Comparison] | None = None,
        starting: Callable[[StudentRoute], bool] = lambda student: False,
    ) -> None:
        """`route_of` gives the route in force of a task key; `student_of` a loaded student.

        `comparisons` are those of tasks whose answers need not be equal to be the same. `starting` tells students
        that will answer soon and do not yet.
        """
        self._tasks = tasks
        self._teachers = teachers
        self._route_of = route_of
        self._student_of = student_of
        self._spending = spending
        self._meter = meter
        self._comparisons = comparisons or {}
        self._starting = starting
        self._rules = {key: EscalationRules(task.teacher.escalate) for key, task in tasks.items()}
        self._slots = {key: asyncio.Semaphore(task.teacher.max_concurrency) for key, task in tasks.items()}
        self._tracer = trace.get_tracer("stillhouse.router")
        for key, task in tasks.items():
            metrics().audit_share.labels(key).set(task.audit.pi)
            for agrees in ("true", "false"):  # so that "no audits" can be told from "not measured"
                metrics().audits.labels(key, "live", agrees)

    async def answer(self, request: InferenceRequested, on_text: OnText | None = None) -> Answered:
        """The answer to `request`; its pieces as they come, where a teacher writes it and nobody else could."""
        started = time.perf_counter()
        task = self._tasks.get(request.task_key)
        if task is None:
            known = ", ".join(sorted(self._tasks)) or "none"
            return _failed(request, "unknown_task", f"no task {request.task_key!r} is declared; known: {known}.")
        if len(request.input) > task.max_input_chars:
            return _failed(
                request,
                "too_large",
                f"the input has {len(request.input):,} characters; task {task.key!r} takes {task.max_input_chars:,}.",
            )
        if (mistake := _unreadable(task, request)) is not None:
            return _failed(request, "bad_input", mistake)
        self._meter.count(task.key)
        if (refusal := self._spending.refusal(task)) is not None:
            return _failed(request, "budget", refusal)
        route = self._route_of(task.key)
        chosen = plan(request, task, route, self._rules[task.key].match(request.input))
        if any(self._starting(audit.student) for audit in chosen.audits):
            # When a replica starts has nothing to do with what is asked, so what is left is a uniform sample still.
            chosen = replace(chosen, audits=tuple(a for a in chosen.audits if not self._starting(a.student)))
        version = route.version if route is not None else 0
        return await _Call(self, request, task, chosen, version, started, on_text).run()

    async def ask_teacher(
        self, request: InferenceRequested, task: Task, *, audit: bool, on_text: OnText | None = None
    ) -> _Said:
        """The teacher's answer within the task's budget and its and the request's deadline."""
        deadline = min(task.teacher.timeout_s, (request.deadline_ms or 600_000) / 1000)
        teacher = self._teachers[task.key]
        started = time.perf_counter()
        with self._tracer.start_as_current_span(names.SPAN_TEACHER_CALL) as span:
            span.set_attribute(names.ATTR_TASK, task.key)
            try:
                async with asyncio.timeout(deadline), self._slots[task.key]:
                    answer = await self._spending.pay(
                        task,
                        request.id,
                        lambda answer: answer.cost_usd,
                        lambda: self._priced(task, _predict(teacher, request, started, on_text)),
                        audit=audit,
                    )
            except BudgetSpent as error:
                return _Said(None, "budget", str(error), error.until)
            except TimeoutError:
                return _Said(None, "deadline", f"the teacher did not answer within {deadline:g} s.")
            except ModelError as error:
                return _Said(None, "teacher_failed", str(error))
        metrics().model_call.labels("teacher").observe(answer.latency_ms / 1000)
        return _Said(answer)

    def usd_per_call(self, task: Task) -> float:
        """The teacher's list price of now."""
        return task.usd_per_call(self._spending.now())

    async def _priced(self, task: Task, asking: Awaitable[Answer]) -> Answer:
        """A teacher's answer at the list price of now; teachers know the one that their task file declares."""
        answer, change = await asking, self.usd_per_call(task) - task.teacher.usd_per_call
        return answer.model_copy(update={"cost_usd": max(0.0, answer.cost_usd + change)}) if change else answer

    async def ask_student(self, request: InferenceRequested, task: Task, student: StudentRoute) -> _Said:
        """The student's answer within the task's time for students."""
        model, timeout = self._student_of(student), task.gate.student_timeout_ms / 1000
        if model is None:
            return _Said(None, error=f"student {student.student_id} is not loaded")
        started = time.perf_counter()
        with self._tracer.start_as_current_span(names.SPAN_STUDENT_CALL) as span:
            span.set_attribute(names.ATTR_STUDENT_ID, student.student_id)
            try:
                async with asyncio.timeout(timeout):
                    answer = await _predict(model, request, started)
            except TimeoutError:
                return _Said(None, error=f"student {student.student_id} did not answer within {timeout:g} s")
            except ModelError as error:
                return _Said(None, error=str(error))
        metrics().model_call.labels("student").observe(answer.latency_ms / 1000)
        return _Said(answer)

    async def same(self, task: Task, student: Answer, teacher: Answer) -> bool:
        """Whether two answers are the same under the task's comparator; one that fails has found no sameness."""
        compare = self._comparisons.get(task.key)
        if compare is None:
            return exact(student.output, teacher.output)
        try:  # it may be a user's own, or run an encoder
            return await asyncio.to_thread(compare.same, student.output, teacher.output)
        except Exception as error:
            log.error("comparator_failed", task=task.key, error=f"{type(error).__name__}: {error}")
            return False


class _Call:
    """One request on its way. Models are asked at most once each, when they are first needed."""

    def __init__(
        self,
        models: Answering,
        request: InferenceRequested,
        task: Task,
        chosen: Plan,
        version: int,
        started: float,
        on_text: OnText | None,
    ) -> None:
        self._models, self._request, self._task, self._on_text = models, request, task, on_text
        self._plan, self._version, self._started = chosen, version, started
        self._teacher: asyncio.Task[_Said] | None = None
        self._students: dict[str, asyncio.Task[_Said]] = {}

    async def run(self) -> Answered:
        chosen = self._plan
        if chosen.audits:
            self._ask_teacher()
        if chosen.policy is None:
            for audit in chosen.audits:
                self._ask(audit.student)
        said, reason, asked = None, chosen.reason, None
        if chosen.serving is not None:
            asked = await self._says(chosen.serving)
            if asked.answer is None:
                log.warning("student_failed", student_id=chosen.serving.student_id, error=asked.error)
                reason = "student_failed"
            elif asked.answer.confidence < self._threshold(chosen.serving):
                reason = "below_threshold"
            else:
                said = asked
        served_by_student = said is not None
        teacher: _Said | None = None
        if said is None:
            said = teacher = await self._says(None)
        if said.answer is None:
            failed = _failed(self._request, said.code, said.error)
            await self._settle()
            waits = self._task.budget.at_limit == "queue" and self._request.purpose == "serve"
            if said.code == "budget" and waits and self._request.deadline_ms is None:
                return replace(failed, parked=parked(self._request, said.until))
            return failed
        student = asked.answer if asked is not None else None
        completed = _completed(
            self._request,
            input=self._request.input,
            input_type=self._request.input_type,
            output=said.answer.output,
            served_by="student" if served_by_student else "teacher",
            reason=reason,
            stage=chosen.stage,
            audited=bool(chosen.audits),
            teacher=teacher.answer if teacher is not None else None,
            student=student,
            threshold=self._threshold(chosen.serving) if chosen.serving is not None else None,
            route_version=self._version,
            cost_usd=sum(a.cost_usd for a in (student, teacher.answer if teacher else None) if a is not None),
            teacher_cost_usd=teacher.answer.cost_usd
            if teacher is not None and teacher.answer is not None
            else self._models.usd_per_call(self._task),
            latency_ms=(time.perf_counter() - self._started) * 1000,
        )
        return Answered(completed, lambda: self._audits(completed))

    async def _says(self, student: StudentRoute | None) -> _Said:
        """The answer of `student`, or of the teacher (None); in a task of its own only where an audit needs it too."""
        if self._plan.audits:
            return await (self._ask_teacher() if student is None else self._ask(student))
        if student is None:
            # Not asked before it was known that its answer is the client's, so its pieces are, too.
            return await self._models.ask_teacher(self._request, self._task, audit=False, on_text=self._on_text)
        return await self._models.ask_student(self._request, self._task, student)

    def _ask_teacher(self) -> asyncio.Task[_Said]:
        if self._teacher is None:
            self._teacher = asyncio.create_task(
                self._models.ask_teacher(self._request, self._task, audit=bool(self._plan.audits))
            )
        return self._teacher

    def _ask(self, student: StudentRoute) -> asyncio.Task[_Said]:
        task = self._students.get(student.student_id)
        if task is None:
            task = asyncio.create_task(self._models.ask_student(self._request, self._task, student))
            self._students[student.student_id] = task
        return task

    async def _settle(self) -> None:
        """Wait for what was asked and is not needed any more."""
        await asyncio.gather(*self._students.values(), return_exceptions=True)

    async def _audits(self, completed: InferenceCompleted) -> list[InferenceAudited]:
        if not self._plan.audits:
            return []
        teacher = await self._ask_teacher()
        if teacher.answer is None:
            await self._settle()
            log.warning("audit_without_teacher", request_id=self._request.id, error=teacher.error)
            return []
        audited = []
        for number, audit in enumerate(self._plan.audits):
            said = _Said(None) if self._plan.policy is not None else await self._ask(audit.student)
            # What was asked for the client's sake is no overhead, and a teacher that served two audits was paid once.
            paid = teacher.answer.cost_usd if completed.teacher is None and number == 0 else 0.0
            same = said.answer is not None and await self._models.same(self._task, said.answer, teacher.answer)
            event = self._audited(audit, teacher.answer, said, completed, paid, same)
            metrics().audits.labels(self._task.key, audit.stage, str(event.agrees).lower()).inc()
            audited.append(event)
        return audited

    def _threshold(self, student: StudentRoute) -> float:
        """The confidence from which `student` serves this request; above 1 where the text is longer than it may be."""
        if student.longest is not None and len(redact(self._request.input).text) > student.longest:
            return SERVE_NOTHING
        return student.threshold_for(self._request.group)

    def _audited(
        self, audit: Audit, teacher: Answer, said: _Said, completed: InferenceCompleted, overhead: float, same: bool
    ) -> InferenceAudited:
        request, student = self._request, said.answer
        threshold = self._threshold(audit.student)
        would_serve = student is not None and student.confidence >= threshold
        serving = self._plan.serving
        served = completed.served_by == "student" and serving is not None
        served = served and serving is not None and serving.student_id == audit.student.student_id
        if student is not None and (serving is None or serving.student_id != audit.student.student_id):
            overhead += student.cost_usd
        return InferenceAudited(
            id=follow_id(request.id, InferenceAudited.TYPE, audit.student.student_id),
            time=completed.time,  # two audits of one request leave one example, under one time
            tenant=request.tenant,
            task=request.task,
            request_id=request.id,
            input=request.input,
            input_type=request.input_type,
            student_id=audit.student.student_id,
            artefact_sha256=audit.student.artefact.sha256,
            stage=audit.stage,
            pi=audit.pi,
            teacher=teacher,
            student=student,
            student_error=said.error or None,
            threshold=threshold,
            would_serve=would_serve,
            agrees=not would_serve or same,
            served_by="student" if served else "teacher",
            policy=self._plan.policy is not None,
            route_version=self._version,
            overhead_usd=overhead,
            group=request.group,
        )


def _unreadable(task: Task, request: InferenceRequested) -> str | None:
    """Why the input is none that the task takes; None: it is one."""
    if task.kind == "rerank" or request.input_type == "rerank":
        return _no_list(task, request)
    if request.input_type == "text":
        return None
    if task.kind == "classify":
        return f"task {task.key!r} classifies one text; send it as `input`, with `input_type` `text`."
    try:
        ChatRequest.of(request.input_type, request.input)
    except ValueError as error:
        return str(error)
    return None


def _no_list(task: Task, request: InferenceRequested) -> str | None:
    """As `_unreadable`, where task or request are about ranking."""
    if task.kind != "rerank":
        return f"task {task.key!r} is of kind {task.kind}; it ranks no documents."
    if request.input_type != "rerank":
        return f"task {task.key!r} ranks documents; send their JSON as `input`, with `input_type` `rerank`."
    try:
        RerankRequest.of(request.input)
    except ValueError as error:
        return str(error)
    return None


def _writes(model: Model | ChatModel) -> TypeGuard[ChatModel]:
    return hasattr(model, "complete")  # isinstance of a protocol takes twenty times as long


async def _predict(
    model: Model | ChatModel, request: InferenceRequested, started: float, on_text: OnText | None = None
) -> Answer:
    if _writes(model):
        return await _complete(model, request, started, on_text)
    [prediction] = await cast(Model, model).predict([request.input])
    return Answer(
        output=prediction.output,
        confidence=prediction.confidence,
        distribution=dict(prediction.distribution),
        model=model.version,
        latency_ms=(time.perf_counter() - started) * 1000,
        cpu_ms=prediction.cpu_ms,
        cost_usd=prediction.cost_usd,
    )


async def _complete(model: ChatModel, request: InferenceRequested, started: float, on_text: OnText | None) -> Answer:
    said = await model.complete(ChatRequest.of(request.input_type, request.input), on_text)
    return Answer(
        output=said.as_output(),
        confidence=1.0 if said.confidence is None else said.confidence,
        model=model.version,
        latency_ms=(time.perf_counter() - started) * 1000,
        cpu_ms=said.cpu_ms,
        cost_usd=said.cost_usd,
        input_tokens=said.input_tokens,
        output_tokens=said.output_tokens,
        finish_reason=said.finish_reason,
    )


async def _no_audits() -> list[InferenceAudited]:
    return []


def without_input(completed: InferenceCompleted, message: str) -> InferenceCompleted:
    """What is said instead of an answer that does not fit into a record."""
    failure = Failure(code="too_large", message=message)
    kept = {name: getattr(completed, name) for name in ("id", "time", "tenant", "task", "request_id", "purpose")}
    return InferenceCompleted(status="error", failure=failure, **kept)


def _failed(request: InferenceRequested, code: str, message: str) -> Answered:
    failure = Failure.model_validate({"code": code, "message": message})
    # Without the input: an oversized one would make the error oversized too.
    return Answered(_completed(request, status="error", failure=failure), _no_audits)


def _completed(request: InferenceRequested, **said: Any) -> InferenceCompleted:
    return InferenceCompleted(
        id=follow_id(request.id, InferenceCompleted.TYPE, request.subject),
        tenant=request.tenant,
        task=request.task,
        request_id=request.id,
        purpose=request.purpose,
        requested_at=request.time.isoformat(),
        group=request.group,
        **said,
    )
