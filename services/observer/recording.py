"""What an event leaves in the store: pure functions from events to rows.

Free text (inputs, outputs, labels, error messages) is redacted here; nothing behind this module sees the original.
Ids follow from the request's or the cause's, so the same event always gives the same rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from stillhouse.events import (
    Answer,
    CostIncurred,
    Event,
    ExampleRecorded,
    ExampleReviewed,
    InferenceAudited,
    InferenceCompleted,
    Provenance,
    RouteChanged,
    Sample,
    follow_id,
)
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.rerank_request import RerankRequest
from stillhouse.store.redaction import Redacted, input_hash, redact, stored_group
from stillhouse.store.rows import AuditRow, DecisionRow, ExampleRow, LedgerRow, ReviewRow, RouteRow
from stillhouse.tasks import Task

# The teacher answers these whatever the student would have said.
_UNCONDITIONAL: Final = frozenset({"no_student", "shadow", "pinned", "criticality"})
# Asked for by an application, or by Stillhouse itself: then it is an overhead, and no teacher call is spared by it.
_KINDS: Final = {"serve": "request", "observe": "request", "gate": "gate", "backfill": "backfill"}


def sample_of(completed: InferenceCompleted) -> Sample:
    """How a teacher answer outside of audits was come by; what is not known to be unbiased is an `escalation`.

    A policy answer is part of the full sample only as long as the requests beside it are: before a student serves. What
    a teacher is asked for a gate or a check was drawn from what is recorded: it is no request of the traffic.
    """
    if completed.purpose == "gate":
        return "escalation"
    if completed.purpose == "observe" or completed.reason in _UNCONDITIONAL:
        return "full"
    if completed.reason == "policy" and completed.stage in ("teacher", "shadow"):
        return "full"
    return "escalation"


def completed_example(completed: InferenceCompleted) -> ExampleRow | None:
    """The teacher's answer to a request, where it gave one.

    An audited request's is taken from its audit alone: that has it whoever served, and two sources of one example would
    disagree about its time, by which the store finds what it has already.
    """
    if completed.status != "ok" or completed.audited or completed.teacher is None or not completed.input:
        return None
    provenance: Provenance = "policy" if completed.reason == "policy" else "teacher"
    return _example(completed, completed.teacher, sample_of(completed), provenance)


def audited_example(audited: InferenceAudited) -> ExampleRow | None:
    """The teacher's answer to an audited request; two audits of one request (two students) give one example."""
    if not audited.input:
        return None
    return _example(audited, audited.teacher, "audit", "policy" if audited.policy else "teacher")


def recorded(row: ExampleRow) -> ExampleRecorded:
    """The event that says that `row` is in the store; said again, it has the same id."""
    return ExampleRecorded(
        id=follow_id(row.request_id, ExampleRecorded.TYPE, row.example_id),
        time=row.time,
        tenant=row.tenant,
        task=row.task,
        example_id=row.example_id,
        request_id=row.request_id,
        input_sha256=row.input_sha256,
        sample=row.sample,
        provenance=row.provenance,
        teacher_version=row.teacher_version,
    )


def completed_entry(completed: InferenceCompleted) -> LedgerRow:
    """What a request cost, and what the teacher alone would have. A failed one is kept with its code, for nothing."""
    teacher_cpu, student_cpu = _cpu(completed.teacher), _cpu(completed.student)
    if completed.audited:  # the other answer's share stands in the audit's entry
        teacher_cpu = teacher_cpu if completed.served_by == "teacher" else 0.0
        student_cpu = student_cpu if completed.served_by == "student" else 0.0
    failed = completed.status == "error"
    reason = (completed.failure.code if completed.failure else "error") if failed else completed.reason
    asked_for = completed.purpose in ("serve", "observe")
    return LedgerRow(
        entry_id=follow_id(completed.request_id, "ledger", f"{completed.task_key}/request"),
        time=completed.time,
        tenant=completed.tenant,
        task=completed.task,
        kind=_KINDS[completed.purpose],
        cause_id=completed.request_id,
        usd=0.0 if failed else _finite(completed.cost_usd),
        teacher_usd=_finite(completed.teacher_cost_usd) if asked_for and not failed else 0.0,
        served_by=completed.served_by,
        reason=reason,
        stage=completed.stage,
        purpose=completed.purpose,
        teacher_cpu_ms=teacher_cpu,
        student_cpu_ms=student_cpu,
        latency_ms=_finite(completed.latency_ms),
    )


def audit_row(audited: InferenceAudited) -> AuditRow:
    """Both answers to one request."""
    student = audited.student
    return AuditRow(
        audit_id=audited.id,
        time=audited.time,
        tenant=audited.tenant,
        task=audited.task,
        request_id=audited.request_id,
        input=_redacted(audited).text,
        student_id=audited.student_id,
        artefact_sha256=audited.artefact_sha256,
        stage=audited.stage,
        pi=audited.pi,
        threshold=audited.threshold,
        would_serve=audited.would_serve,
        agrees=audited.agrees,
        served_by=audited.served_by,
        policy=audited.policy,
        teacher_output=redact(audited.teacher.output).text,
        teacher_version=audited.teacher.model,
        teacher_latency_ms=_finite(audited.teacher.latency_ms),
        student_output=redact(student.output).text if student else None,
        student_confidence=student.confidence if student else None,
        student_latency_ms=_finite(student.latency_ms) if student else None,
        student_error=redact(audited.student_error).text if audited.student_error else None,
        route_version=audited.route_version,
        overhead_usd=_finite(audited.overhead_usd),
        group=stored_group(audited.group) if audited.group is not None else None,
    )


def audit_entry(audited: InferenceAudited) -> LedgerRow:
    """What the answer cost that the client did not get."""
    from_teacher = audited.served_by == "teacher"
    return LedgerRow(
        entry_id=follow_id(audited.id, "ledger", audited.task_key),  # a request may be audited for two students
        time=audited.time,
        tenant=audited.tenant,
        task=audited.task,
        kind="audit",
        cause_id=audited.request_id,
        usd=_finite(audited.overhead_usd),
        served_by=audited.served_by,
        stage=audited.stage,
        teacher_cpu_ms=0.0 if from_teacher else _cpu(audited.teacher),
        student_cpu_ms=_cpu(audited.student) if from_teacher else 0.0,
        note=audited.student_id,
        pi=None if from_teacher else audited.pi,
        sampled_teacher_usd=None if from_teacher else _finite(audited.teacher.cost_usd),
    )


def cost_entry(cost: CostIncurred, task: Task | None) -> LedgerRow:
    """An overhead that another service reports; one without an amount is priced by the task's price book."""
    return LedgerRow(
        entry_id=follow_id(cost.id, "ledger", cost.task_key),
        time=cost.time,
        tenant=cost.tenant,
        task=cost.task,
        kind=cost.kind,
        cause_id=cost.cause_id,
        usd=_finite(cost.usd) or (task.usd_of(cost.time, cost.gpu_seconds, cost.human_minutes) if task else 0.0),
        cpu_seconds=_finite(cost.cpu_seconds),
        note=redact(cost.note).text,
    )


def route_row(route: RouteChanged) -> RouteRow:
    """One version of a task's route."""
    return RouteRow(
        event_id=route.id,
        time=route.time,
        tenant=route.tenant,
        task=route.task,
        version=route.version,
        stage=route.stage,
        event=route.model_dump_json(),
    )


def review_row(reviewed: ExampleReviewed) -> ReviewRow:
    """A person's verdict, under the event's id."""
    return ReviewRow(
        review_id=reviewed.id,
        time=reviewed.time,
        tenant=reviewed.tenant,
        task=reviewed.task,
        case_id=reviewed.case_id,
        example_id=reviewed.example_id,
        request_id=reviewed.request_id,
        input_sha256=reviewed.input_sha256,
        reason=reviewed.reason,
        drawn=reviewed.drawn,
        reviewer=reviewed.reviewer,
        verdict=reviewed.verdict,
        label=redact(reviewed.label).text if reviewed.label is not None else None,
        previous_label=redact(reviewed.previous_label).text,
        teacher_version=reviewed.teacher_version,
        minutes=reviewed.minutes,
        note=redact(reviewed.note).text,
    )


def decision_row(event: Event) -> DecisionRow:
    """A decision, or what led to one. Its texts are Stillhouse's own, or an operator's."""
    return DecisionRow(event.id, event.time, event.tenant, event.task, event.TYPE, event.model_dump_json())


def _example(
    event: InferenceCompleted | InferenceAudited, teacher: Answer, sample: Sample, provenance: Provenance
) -> ExampleRow:
    text = _redacted(event)
    return ExampleRow(
        example_id=follow_id(event.request_id, ExampleRecorded.TYPE, event.task_key),
        time=event.time,
        tenant=event.tenant,
        task=event.task,
        request_id=event.request_id,
        input=text.text,
        input_sha256=input_hash(text.text),
        output=redact(teacher.output).text,
        distribution=_json(teacher.distribution),
        confidence=teacher.confidence,
        sample=sample,
        provenance=provenance,
        teacher_version=teacher.model,
        group=stored_group(event.group) if event.group is not None else None,
        redactions=",".join(text.marks),
        input_type=event.input_type,
        finish_reason=teacher.finish_reason,
    )


def _redacted(event: InferenceCompleted | InferenceAudited) -> Redacted:
    """The input as it may be stored. Of a chat or a list each text by itself, so that it stays JSON."""
    if event.input_type == "text":
        return redact(event.input)
    asked: ChatRequest | RerankRequest
    try:
        ranks = event.input_type == "rerank"
        asked = RerankRequest.of(event.input) if ranks else ChatRequest.of(event.input_type, event.input)
    except ValueError:  # no router says so; what somebody else wrote is a text like any other
        return redact(event.input)
    marks: set[str] = set()

    def change(text: str) -> str:
        found = redact(text)
        marks.update(found.marks)
        return found.text

    changed = asked.with_texts(change)
    text = changed.as_input() if isinstance(changed, RerankRequest) else changed.as_input()[1]
    return Redacted(text, tuple(sorted(marks)))


def _json(distribution: Mapping[str, float]) -> str:
    kept = {redact(label).text: share for label, share in distribution.items() if math.isfinite(share)}
    return json.dumps(kept, ensure_ascii=False, sort_keys=True)


def _cpu(answer: Answer | None) -> float:
    return _finite(answer.cpu_ms) if answer else 0.0


def _finite(value: float) -> float:
    """JSON as others write it may hold Infinity, and one of those would swallow every sum."""
    return value if math.isfinite(value) else 0.0
