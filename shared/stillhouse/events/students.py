"""A student's life: asked for, trained, judged, watched."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import AwareDatetime, Field

from stillhouse.events._base import Event, Value

GateStage = Literal["offline", "shadow", "canary"]
SuspicionKind = Literal["outputs", "inputs", "novelty", "teacher_version", "teacher", "latency", "cost"]
Strategy = Literal["no_change", "collecting", "distilled", "fallback_teacher"]


class ArtefactRef(Value):
    """An immutable folder of files, named by content."""

    uri: str = Field(description="`file://` or object-store URI of the folder.")
    sha256: str = Field(description="Of the manifest, which holds the sha256 of every file.")
    size: int = Field(ge=0, description="Bytes of all files.")


class DatasetRef(Value):
    """The frozen data a student was trained on."""

    version: str = Field(description="Content hash of the example ids and their splits.")
    uri: str = Field(description="Parquet file: example_id, split (`train` | `select`).")
    n_train: int
    n_select: int
    cutoff: AwareDatetime = Field(description="Only examples recorded before it were used; gates use later ones.")


class TrainingRequested(Event):
    """Somebody asks for a student now, whatever the budget policy says."""

    TYPE: ClassVar[str] = "training.requested"

    requested_by: str
    reason: str
    architecture: str | None = Field(default=None, description="One of the task's candidates; None: cheapest first.")


class BudgetEvaluated(Event):
    """What the trainer decided to spend, and why."""

    TYPE: ClassVar[str] = "budget.evaluated"

    strategy: Strategy
    reason: str
    numbers: dict[str, float] = Field(default_factory=dict)


class TrainingStarted(Event):
    """A training job left the queue."""

    TYPE: ClassVar[str] = "training.started"

    job_id: str
    student_id: str
    architecture: str
    n_examples: int


class TrainingFailed(Event):
    """A training job ended without a student."""

    TYPE: ClassVar[str] = "training.failed"

    job_id: str
    architecture: str
    error: str
    attempts: int = 1


class StudentTrained(Event):
    """A new immutable student, not yet judged."""

    TYPE: ClassVar[str] = "student.trained"

    student_id: str
    job_id: str
    architecture: str
    rung: int = Field(ge=0, description="Position among the task's candidates, cheapest first.")
    changes: dict[str, Any] = Field(
        default_factory=dict, description="Where the trainer left the task file's candidate to mend what a gate found."
    )
    artefact: ArtefactRef
    dataset: DatasetRef
    teacher_version: str
    metrics: dict[str, float] = Field(default_factory=dict)
    about: dict[str, str] = Field(
        default_factory=dict,
        description="What it is, where there is more than an architecture: base, quantization, runtime.",
    )
    cpu_seconds: float = 0.0
    mlflow_run_id: str | None = None


class Condition(Value):
    """One condition of a gate."""

    name: str
    verdict: Literal["passed", "failed", "undecided"]
    floor: float | None = None
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    n: int = 0
    evidence: float | None = Field(default=None, description="e-value against the null hypothesis.")
    note: str = ""
    ceiling: float | None = Field(default=None, description="Where less is better: the largest value that holds.")
    needs_more: int | None = Field(default=None, description="Cases still needed, where undecided: a forecast.")
    costs_usd: float | None = Field(default=None, description="What those cases will cost.")


class GateDecided(Event):
    """What one stage's gate said; the base of passed, failed and undecided."""

    student_id: str
    stage: GateStage
    verdict: Literal["passed", "failed", "undecided"]
    reason: str
    n: int = Field(description="Cases judged.")
    teacher_calls: int = Field(default=0, description="Teacher calls made only for this verdict.")
    evidence: float = Field(default=0.0, description="e-value of the agreement condition.")
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    alpha: float = Field(default=0.05, description="Share of the task's alpha spent on this verdict.")
    threshold: float | None = Field(default=None, description="Chosen confidence threshold.")
    coverage: float | None = Field(default=None, description="Share of requests the student would serve.")
    needs_more: int | None = Field(default=None, description="Cases still needed, where undecided.")
    final: bool = Field(default=True, description="False: the gate goes on when more cases arrive.")
    conditions: list[Condition] = Field(default_factory=list)
    student: StudentTrained | None = Field(default=None, description="The judged student.")
    report_uri: str | None = None
    costs_usd: float | None = Field(default=None, description="What the cases still needed will cost.")


class GatePassed(GateDecided):
    """A stage's gate let the student through."""

    TYPE: ClassVar[str] = "gate.passed"
    verdict: Literal["passed", "failed", "undecided"] = "passed"


class GateFailed(GateDecided):
    """A stage's gate turned the student away."""

    TYPE: ClassVar[str] = "gate.failed"
    verdict: Literal["passed", "failed", "undecided"] = "failed"


class GateUndecided(GateDecided):
    """Not enough evidence yet, or ever (`final`)."""

    TYPE: ClassVar[str] = "gate.undecided"
    verdict: Literal["passed", "failed", "undecided"] = "undecided"


class Measured(Value):
    """An estimate with bounds that hold whenever it is looked at."""

    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    n: int = 0


class StudentEvaluated(Event):
    """Everything measured about a student on the offline gate's cases."""

    TYPE: ClassVar[str] = "student.evaluated"

    student_id: str
    n: int
    metrics: dict[str, float]
    dataset_version: str
    report_uri: str | None = None
    verdict: Literal["passed", "failed", "undecided"] | None = None
    teacher_version: str | None = Field(default=None, description="The teacher that it was measured against.")
    agreement: Measured | None = Field(default=None, description="1 - P(served and different from the teacher).")
    human_win_rate: Measured | None = Field(default=None, description="Against the base model, where people compared.")
    hallucination_rate: Measured | None = Field(default=None, description="Where answers were checked for grounding.")
    cost_reduction: Measured | None = Field(default=None, description="Share of the teacher's cost that is saved.")
    conditions: list[Condition] = Field(default_factory=list)
    golden_version: str | None = Field(default=None, description="sha256 of the golden set, where there is one.")


class DriftDetected(Event):
    """The live student broke its promise, beyond chance."""

    TYPE: ClassVar[str] = "drift.detected"

    student_id: str
    statistic: float
    alarm_level: float
    audits: int = Field(description="Audits since the student went live.")
    estimate: float = Field(description="Agreement over the most recent audits.")
    lower: float
    upper: float
    window: int = Field(description="How many recent audits the estimate is over.")
    example_ids: list[str] = Field(default_factory=list, description="Request ids of recent disagreements.")
    runbook: str = "DriftDetected"


class DriftSuspected(Event):
    """Something around the live student changed that may cost agreement; only audits can tell whether it did."""

    TYPE: ClassVar[str] = "drift.suspected"

    student_id: str
    kind: SuspicionKind = Field(
        description="`outputs`: the student's softmax; `inputs`: the texts; `novelty`: texts unlike those recorded "
        "before it was live; `teacher_version`: another teacher answers; `teacher`: the teacher differs from what it "
        "said before; `latency`, `cost`: of the answers that clients get."
    )
    statistic: float = Field(description="What was seen: a p-value, an exceedance statistic, or a count.")
    alarm_level: float = Field(description="What raises the suspicion: at most for p-values, else at least.")
    n: int = Field(description="Requests that it rests on.")
    note: str = ""
    audit_pi: float | None = Field(default=None, description="Share of requests audited until it is cleared.")
    runbook: str = "DriftSuspected"


class DriftCleared(Event):
    """An alarm is over: a newly gated student is live, or audits did not bear out a suspicion."""

    TYPE: ClassVar[str] = "drift.cleared"

    student_id: str
    previous_student_id: str
    suspicion: SuspicionKind | None = Field(
        default=None, description="The suspicion that is over, of a student that stays. None: another one is live."
    )
