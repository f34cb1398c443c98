"""`[gate]`: the promise of a task, what else must hold, and how much evidence it takes."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from stillhouse.tasks.comparators.settings import Comparator, Exact
from stillhouse.tasks.conditions import GateCondition, Recall
from stillhouse.tasks.golden import GoldenFloor
from stillhouse.tasks.section import Section


class Gate(Section):
    """The promise, and how much evidence it takes.

    Agreement, coverage and payback are always judged; `condition` adds to them.
    """

    epsilon: float = Field(default=0.05, gt=0, lt=0.5, description="Largest P(served and different).")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Chance of passing a student that breaks it.")
    min_coverage: float = Field(default=0.2, ge=0, le=1, description="Serve at least this share, or do not pay.")
    max_cases: int = Field(default=5000, ge=50, description="Case budget of one stage; then undecided for good.")
    shadow_requests: int = Field(default=200, ge=20, description="Shadow comparisons before the shadow verdict.")
    latency_p99_ms: float = Field(default=250.0, gt=0, description="Of the student, in shadow.")
    max_error_rate: float = Field(default=0.01, ge=0, lt=1, description="Student failures, in shadow.")
    canary_share: float = Field(default=0.2, gt=0, le=1, description="Of the requests above the threshold.")
    student_timeout_ms: float = Field(default=1000.0, gt=0, description="Then the teacher answers.")
    condition: tuple[GateCondition, ...] = Field(default=(), description="What must hold besides the promise.")
    comparator: Comparator = Field(default=Exact(), description="When two answers count as the same.")
    golden: Path | None = Field(
        default=None,
        description="JSONL of cases that people reviewed: `input`, `kind`, `label`. Never trained on, all judged.",
    )
    golden_floor: GoldenFloor = GoldenFloor()

    @model_validator(mode="after")
    def _each_once(self) -> Gate:
        kinds = [f"slice by {one.by}" if one.kind == "slice" else one.kind for one in self.condition]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ValueError(f"condition {kind!r} is named twice; keep one")
        return self

    def unknown_label(self, labels: tuple[str, ...]) -> str | None:
        """A label that a condition names and that is not in `labels`; None where there is none."""
        named = (label for one in self.condition if isinstance(one, Recall) for label in one.labels)
        return next((label for label in named if label not in labels), None)
