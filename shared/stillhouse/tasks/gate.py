"""`[gate]`: the promise of a task, and how much evidence it takes."""

from __future__ import annotations

from pydantic import Field

from stillhouse.tasks.section import Section


class Gate(Section):
    """The promise, and how much evidence it takes."""

    epsilon: float = Field(default=0.05, gt=0, lt=0.5, description="Largest P(served and different).")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Chance of passing a student that breaks it.")
    min_coverage: float = Field(default=0.2, ge=0, le=1, description="Serve at least this share, or do not pay.")
    max_cases: int = Field(default=5000, ge=50, description="Case budget of one stage; then undecided for good.")
    shadow_requests: int = Field(default=200, ge=20, description="Shadow comparisons before the shadow verdict.")
    latency_p99_ms: float = Field(default=250.0, gt=0, description="Of the student, in shadow.")
    max_error_rate: float = Field(default=0.01, ge=0, lt=1, description="Student failures, in shadow.")
    canary_share: float = Field(default=0.2, gt=0, le=1, description="Of the requests above the threshold.")
    student_timeout_ms: float = Field(default=1000.0, gt=0, description="Then the teacher answers.")
