"""From what was found to what is said: the gate events, each stored as an evaluation and published once by id."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
from opentelemetry import trace

from services.validator.rows import evaluation_row
from services.validator.stages import StageVerdict
from stillhouse.bus.jobs import read_json, write_json
from stillhouse.events import (
    Condition,
    Event,
    GateDecided,
    GateFailed,
    GatePassed,
    GateStage,
    GateUndecided,
    StudentTrained,
    follow_id,
)
from stillhouse.store import Store
from stillhouse.tasks import Task
from stillhouse.telemetry import names
from stillhouse.telemetry.metrics import metrics
from stillhouse.telemetry.tracing import span_context_of, traceparent_of

Publish = Callable[[Event], Awaitable[None]]
log = structlog.get_logger()

_KINDS: dict[str, type[GateDecided]] = {"passed": GatePassed, "failed": GateFailed, "undecided": GateUndecided}


class Verdicts:
    """Says verdicts. The evaluation is stored first: whoever hears the event can read it."""

    def __init__(self, store: Store, publish: Publish, home: Path) -> None:
        self._store = store
        self._publish = publish
        self._home = home
        self._passed: dict[str, GatePassed] = {}
        self._traces: dict[str, str] = {}  # student id -> traceparent of its life

    async def offline(self, task: Task, student: StudentTrained, result: dict[str, Any], number: int) -> None:
        """The verdict of one look of the offline gate; an open one is said once per look."""
        fields = dict(result["judgement"])
        event = self._event(
            task,
            student,
            "offline",
            fields.pop("verdict"),
            suffix="" if fields["final"] else f"/{number}",
            **fields,
            alpha=result["alpha"],
            threshold=result["threshold"],
            report_uri=result["report_uri"],
        )
        if isinstance(event, GatePassed):
            self._keep(event)
        kept = {name: result.get(name) for name in ("metrics", "k", "account", "golden_version")}
        await self._say(event, kept)

    async def broken(self, task: Task, student: StudentTrained, stage: GateStage, error: str) -> None:
        """The student could not be judged, which fails the gate."""
        reason = f"the student could not be judged: {error}"
        await self._say(self._event(task, student, stage, "failed", reason=reason, n=0), {})

    async def replayed(
        self, task: Task, student: StudentTrained, conditions: list[dict[str, Any]], result: dict[str, Any]
    ) -> None:
        """The shadow verdict: conditions counted on the audits, and equality found by the replay."""
        if "broken" in result:
            await self.broken(task, student, "shadow", result["broken"])
            return
        may_differ = float(result.get("may_differ", 0.0))
        same = result["n_different"] <= may_differ * result["n"]
        note = "answer and confidence of the gated artefact on the same inputs"
        if result["n_different"]:
            note += f"; {result['n_different']} differ, such as request {result['different'][0]}"
        equality = Condition(
            name="equality",
            verdict="passed" if same else "failed",
            floor=1.0 - may_differ,
            estimate=1 - result["n_different"] / result["n"] if result["n"] else None,
            n=result["n"],
            note=note,
        )
        await self.shadow(task, student, [*(Condition.model_validate(c) for c in conditions), equality])

    async def shadow(self, task: Task, student: StudentTrained, conditions: list[Condition]) -> None:
        """Passed where all conditions hold, else failed."""
        failed = [condition.name for condition in conditions if condition.verdict == "failed"]
        n = max(condition.n for condition in conditions)
        reason = f"does not hold: {', '.join(failed)}" if failed else "what serves is what was gated, fast enough"
        verdict = StageVerdict(verdict="failed" if failed else "passed", reason=reason, n=n, conditions=conditions)
        await self.stage(task, student, "shadow", verdict)

    async def stage(self, task: Task, student: StudentTrained, stage: GateStage, verdict: StageVerdict) -> None:
        """A stage's verdict, with the threshold that the offline gate fixed."""
        fields = {name: getattr(verdict, name) for name in StageVerdict.model_fields if name != "verdict"}
        gated = await self.gated(student.student_id)
        if gated is not None:
            fields["threshold"] = gated.threshold
            if fields["coverage"] is None:
                fields["coverage"] = gated.coverage
        # Audits come in batches of many requests: the verdict belongs to the student's trace, not to theirs.
        parent = span_context_of(self._traces.get(student.student_id))
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent)) if parent else None
        with trace.get_tracer("stillhouse.validator").start_as_current_span(names.SPAN_GATE, context=context) as span:
            span.set_attribute(names.ATTR_STUDENT_ID, student.student_id)
            span.set_attribute(names.ATTR_STAGE, stage)
            await self._say(self._event(task, student, stage, verdict.verdict, **fields), {})

    async def gated(self, student_id: str) -> GatePassed | None:
        """The offline verdict that let the student through; None where there is none."""
        if student_id not in self._passed:
            kept = await asyncio.to_thread(read_json, self._path(student_id))
            if kept is None:
                return None
            self._passed[student_id] = GatePassed.model_validate(kept)
            if kept.get("traceparent"):
                self._traces[student_id] = kept["traceparent"]
        return self._passed[student_id]

    def _event(
        self, task: Task, student: StudentTrained, stage: GateStage, verdict: str, *, suffix: str = "", **fields: Any
    ) -> GateDecided:
        kind = _KINDS[verdict]
        return kind.model_validate(
            {
                **fields,
                "id": follow_id(student.id, kind.TYPE, f"{student.student_id}/{stage}{suffix}"),
                "tenant": task.tenant,
                "task": task.name,
                "student_id": student.student_id,
                "stage": stage,
                "student": student,
            }
        )

    def _keep(self, event: GatePassed) -> None:
        path = self._path(event.student_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        traceparent = traceparent_of(trace.get_current_span())
        write_json(path, event.model_dump(mode="json") | {"traceparent": traceparent})
        self._passed[event.student_id] = event
        if traceparent is not None:
            self._traces[event.student_id] = traceparent

    def _path(self, student_id: str) -> Path:
        return self._home / "evaluations" / student_id / "offline.json"

    async def _say(self, event: GateDecided, report: dict[str, Any]) -> None:
        await asyncio.to_thread(self._store.append_evaluations, [evaluation_row(event, report)])
        await self._publish(event)
        metrics().gate_verdicts.labels(event.stage, event.verdict).inc()
        log.info("gate_decided", student_id=event.student_id, stage=event.stage, verdict=event.verdict, n=event.n)
