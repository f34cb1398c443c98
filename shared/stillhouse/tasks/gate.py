"""`[gate]`: the promise of a task, what else must hold, and how much evidence it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from stillhouse.tasks.comparators.settings import Comparator, Exact
from stillhouse.tasks.conditions import RESPONSE_DEFAULTS, AnswerCondition, Forgetting, GateCondition, Recall
from stillhouse.tasks.golden import GoldenFloor
from stillhouse.tasks.responses import Hallucination, Judge, NonInferiority, Preference, WinRate
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
    response_defaults: bool = Field(
        default=False,
        description="generate: adds preference, win_rate, hallucination and cost with their defaults, where they are "
        "not listed; people and a judge decide about them.",
    )
    judge: Judge | None = Field(
        default=None, description="generate: the model that compares answers; people correct it."
    )
    people_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="generate: share of the cases that the student would serve that people are shown, drawn at random.",
    )

    @property
    def conditions(self) -> tuple[GateCondition, ...]:
        """Everything that must hold besides the promise: what is listed, and the defaults that are asked for."""
        if not self.response_defaults:
            return self.condition
        listed = {one.kind for one in self.condition}
        return (*self.condition, *(one for one in RESPONSE_DEFAULTS if one.kind not in listed))

    @property
    def about_answers(self) -> tuple[AnswerCondition, ...]:
        """The conditions that a judge and people decide."""
        return tuple(one for one in self.conditions if isinstance(one, AnswerCondition))

    @property
    def questions(self) -> tuple[Literal["teacher", "base", "grounding"], ...]:
        """What people are asked of each case that they see."""
        asked: list[Literal["teacher", "base", "grounding"]] = []
        for wanted in self.about_answers:
            match wanted:
                case Preference():
                    asked.append("teacher")
                case WinRate() | NonInferiority():
                    asked.append("base")
                case Hallucination():
                    asked.append("grounding")
        return tuple(dict.fromkeys(asked))

    @property
    def needs_writing(self) -> str | None:
        """What is asked here that only a task that generates can have; None where there is nothing."""
        if self.response_defaults:
            return "response_defaults"
        if self.judge is not None:
            return "judge"
        return next((one.kind for one in self.condition if isinstance(one, AnswerCondition | Forgetting)), None)

    @model_validator(mode="after")
    def _each_once(self) -> Gate:
        kinds = [f"slice by {one.by}" if one.kind == "slice" else one.kind for one in self.condition]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ValueError(f"condition {kind!r} is named twice; keep one")
        hallucination = next((one for one in self.about_answers if isinstance(one, Hallucination)), None)
        if hallucination is not None and hallucination.check == "judge" and self.judge is None:
            raise ValueError("condition 'hallucination' has check = \"judge\"; add [gate.judge]")
        return self

    def unknown_label(self, labels: tuple[str, ...]) -> str | None:
        """A label that a condition names and that is not in `labels`; None where there is none."""
        named = (label for one in self.condition if isinstance(one, Recall) for label in one.labels)
        return next((label for label in named if label not in labels), None)
