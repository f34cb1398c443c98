"""Requests, their answers, and the audits that compare teacher and student on a random sample."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import AwareDatetime, Field

from stillhouse.events._base import Event, Value

Stage = Literal["teacher", "shadow", "canary", "live"]
Reason = Literal[
    "no_student",  # the route knows no student yet, or was sent back to the teacher
    "shadow",  # a student is compared only; the teacher answers
    "canary_holdout",  # outside of the share that the canary serves
    "student",  # confident enough, on a route that lets the student serve
    "below_threshold",  # the student was not confident enough
    "policy",  # an always-escalate rule matched
    "criticality",  # the task is marked criticality = "high"
    "pinned",  # the request asked for the teacher
    "student_failed",  # the student raised, timed out or is not loaded; the teacher answered
]


InputType = Literal["text", "chat", "rerank"]


class InferenceRequested(Event):
    """One request. Its `id` is the request id and the record's key; the same id twice is answered once."""

    TYPE: ClassVar[str] = "inference.requested"

    input: str = Field(min_length=1, description="The text to be answered.")
    input_type: InputType = Field(
        default="text",
        description="`chat`: the input is the JSON of a chat completion request, with its messages. `rerank`: of a "
        "query and its documents.",
    )
    purpose: Literal["serve", "backfill", "gate"] = Field(default="serve", description="Why it is asked.")
    pin: Literal["teacher"] | None = Field(default=None, description="`teacher`: do not route, do not audit.")
    reply_to: str | None = Field(
        default=None,
        max_length=200,
        description="A topic that gets a copy of the answer, besides `inference.completed`.",
    )
    deadline_ms: int | None = Field(default=None, ge=1, le=600_000, description="Give up after this long.")
    group: str | None = Field(default=None, max_length=200, description="Conversation or layout it belongs to.")

    @property
    def subject(self) -> str:
        """The request id."""
        return self.id


class InferenceParked(InferenceRequested):
    """A request that waits for its task's next budget, whole; it comes back as `inference.requested`, under its id."""

    TYPE: ClassVar[str] = "inference.parked"

    until: AwareDatetime | None = Field(default=None, description="When the next budget begins.")


class Answer(Value):
    """What one model said about one input, and what that took."""

    output: str
    confidence: float = Field(ge=0.0, le=1.0, description="Calibrated where the model offers it.")
    distribution: dict[str, float] = Field(
        default_factory=dict, description="Label to probability; entries under 0.001 are left out."
    )
    model: str = Field(description="Teacher version or student id.")
    latency_ms: float = Field(ge=0.0, description="Waiting and computing, as the router saw it.")
    cpu_ms: float = Field(default=0.0, ge=0.0, description="CPU time of the model's process for this input.")
    cost_usd: float = Field(default=0.0, ge=0.0, description="Price of this call: list price or measured CPU.")
    input_tokens: int = Field(default=0, ge=0, description="Of a model that writes; 0: not known.")
    output_tokens: int = Field(default=0, ge=0)
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None = Field(
        default=None, description="Of a model that writes. `tool_calls`: the output is JSON of content and calls."
    )


class Failure(Value):
    """Why a request has no output."""

    code: Literal["unknown_task", "bad_input", "too_large", "teacher_failed", "deadline", "lost", "budget"]
    message: str


class InferenceCompleted(Event):
    """The answer to a request: exactly one per request id, though Kafka may deliver it more than once."""

    TYPE: ClassVar[str] = "inference.completed"

    request_id: str
    status: Literal["ok", "error"] = "ok"
    failure: Failure | None = None
    input: str = ""
    input_type: InputType = "text"
    output: str | None = None
    served_by: Literal["teacher", "student"] | None = None
    reason: Reason | None = None
    stage: Stage = "teacher"
    purpose: Literal["serve", "backfill", "gate", "observe"] = "serve"
    audited: bool = Field(default=False, description="An `inference.audited` with both answers follows.")
    teacher: Answer | None = Field(default=None, description="The teacher's answer, where it was asked.")
    student: Answer | None = Field(default=None, description="The student's answer, where it was asked in time.")
    threshold: float | None = Field(default=None, description="Confidence from which the student serves.")
    route_version: int = 0
    cost_usd: float = Field(default=0.0, ge=0.0, description="What answering it cost, audits left out.")
    teacher_cost_usd: float = Field(default=0.0, ge=0.0, description="What the teacher alone would have cost.")
    latency_ms: float = Field(default=0.0, ge=0.0, description="From the router's receipt to the answer.")
    requested_at: str | None = Field(default=None, description="The request's own time, RFC 3339.")
    group: str | None = None

    @property
    def subject(self) -> str:
        """The request id."""
        return self.request_id


class InferenceAudited(Event):
    """A request drawn before routing, answered by both: the only sample that measures a served student."""

    TYPE: ClassVar[str] = "inference.audited"

    request_id: str
    input: str
    input_type: InputType = "text"
    student_id: str
    artefact_sha256: str = Field(description="Of the artefact that answered.")
    stage: Literal["shadow", "canary", "live"]
    pi: float = Field(gt=0.0, le=1.0, description="Probability with which this request was drawn.")
    teacher: Answer
    student: Answer | None = Field(default=None, description="None: a policy rule kept it away, or it failed.")
    student_error: str | None = Field(default=None, description="Why the student gave no answer.")
    threshold: float
    would_serve: bool = Field(description="Whether the student's answer would go to the client when live.")
    agrees: bool = Field(description="Under the task's comparator; true where the request would be escalated.")
    served_by: Literal["teacher", "student"]
    policy: bool = Field(default=False, description="An always-escalate rule matched.")
    route_version: int = 0
    overhead_usd: float = Field(default=0.0, ge=0.0, description="Cost of the answer that the client did not get.")
    group: str | None = None

    @property
    def loss(self) -> bool:
        """The promise's own terms: served by the student and different from the teacher."""
        return self.would_serve and not self.agrees
