"""The rows of the store's tables: one dataclass per table, the first field is the id that rows merge on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from stillhouse.events import Drawn, Provenance, ReviewReason, ReviewVerdict, Sample


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """A recorded teacher answer. `input` is redacted; `distribution` is JSON text of label to probability.

    `time` is when the request was completed; `sample` says whether it was drawn without regard to the student.
    """

    example_id: str
    time: datetime
    tenant: str
    task: str
    request_id: str
    input: str
    input_sha256: str
    output: str
    distribution: str
    confidence: float
    sample: Sample
    provenance: Provenance
    teacher_version: str
    group: str | None = None
    redactions: str = ""  # comma-separated kinds of what was taken out
    input_type: str = "text"  # chat: the input is the JSON of a chat completion request
    finish_reason: str | None = None  # of a teacher that writes


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A request that teacher and student both answered. `input` is redacted."""

    audit_id: str
    time: datetime
    tenant: str
    task: str
    request_id: str
    input: str
    student_id: str
    artefact_sha256: str
    stage: str
    pi: float
    threshold: float
    would_serve: bool
    agrees: bool
    served_by: str
    policy: bool
    teacher_output: str
    teacher_version: str
    teacher_latency_ms: float
    student_output: str | None = None
    student_confidence: float | None = None
    student_latency_ms: float | None = None
    student_error: str | None = None
    route_version: int = 0
    overhead_usd: float = 0.0
    group: str | None = None


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One amount: a request (`kind = "request"`) or an overhead (audit, training, gate, storage, ...).

    `usd` was spent; `teacher_usd` is what the teacher alone would have cost (0 for overheads). An audit of a request
    that its student answered has what the teacher's call cost, and the probability `pi` with which it was drawn.
    """

    entry_id: str
    time: datetime
    tenant: str
    task: str
    kind: str
    cause_id: str
    usd: float
    teacher_usd: float = 0.0
    served_by: str | None = None
    reason: str | None = None
    stage: str | None = None
    purpose: str = "serve"
    teacher_cpu_ms: float = 0.0
    student_cpu_ms: float = 0.0
    cpu_seconds: float = 0.0
    latency_ms: float = 0.0
    note: str = ""
    pi: float | None = None
    sampled_teacher_usd: float | None = None


@dataclass(frozen=True, slots=True)
class RouteRow:
    """One version of a task's route; `event` is the whole `route.changed` as JSON."""

    event_id: str
    time: datetime
    tenant: str
    task: str
    version: int
    stage: str
    event: str


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """Something that was decided, or that made somebody decide; `event` is the whole event as JSON."""

    event_id: str
    time: datetime
    tenant: str
    task: str
    type: str
    event: str


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One verdict of a gate."""

    evaluation_id: str
    time: datetime
    tenant: str
    task: str
    student_id: str
    stage: str
    verdict: str
    reason: str
    n: int
    teacher_calls: int = 0
    evidence: float = 0.0
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    alpha: float = 0.0
    threshold: float | None = None
    coverage: float | None = None
    needs_more: int | None = None
    final: bool = True
    report_json: str = ""


@dataclass(frozen=True, slots=True)
class CaseRow:
    """An answer that waits for a person, or did. `time` is the answer's own; `share` the probability of the draw."""

    case_id: str
    time: datetime
    tenant: str
    task: str
    example_id: str
    request_id: str
    input_sha256: str
    reason: ReviewReason
    drawn: Drawn
    share: float | None = None
    student_id: str | None = None


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """A person's verdict about an example. `label` is what is right, `previous_label` what the teacher said.

    Only rows with `drawn = "random"` measure: the others were picked because something about them was special.
    """

    review_id: str
    time: datetime
    tenant: str
    task: str
    case_id: str
    example_id: str
    request_id: str
    input_sha256: str
    reason: ReviewReason
    drawn: Drawn
    reviewer: str
    verdict: ReviewVerdict
    label: str | None
    previous_label: str
    teacher_version: str = ""
    minutes: float | None = None
    note: str = ""
