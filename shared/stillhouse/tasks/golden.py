"""The golden set of a task: cases that people reviewed, that every student must face and none may learn from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from stillhouse.tasks.section import Section

GoldenKind = Literal["policy", "escalation", "factuality", "refusal"]


class GoldenFloor(Section):
    """Which share of the golden cases of each kind must hold. They are a list to be met, not a sample."""

    policy: float = Field(default=1.0, gt=0, le=1, description="The right label, or the teacher's answer.")
    escalation: float = Field(default=1.0, gt=0, le=1, description="Left to the teacher.")
    factuality: float = Field(default=0.95, gt=0, le=1, description="The student's own answer right, served or not.")
    refusal: float = Field(default=1.0, gt=0, le=1, description="generate: declined, or left to the teacher.")


class GoldenCase(Section):
    """One line of the golden file."""

    input: str = Field(min_length=1)
    kind: GoldenKind = "policy"
    label: str | None = Field(
        default=None, description="The right answer, by the comparator; not needed for an escalation or a refusal."
    )

    @model_validator(mode="after")
    def _labelled(self) -> GoldenCase:
        if self.label is None and self.kind not in ("escalation", "refusal"):
            raise ValueError(f"a {self.kind} case needs a label")
        return self


def read_golden(path: Path, labels: Sequence[str]) -> tuple[GoldenCase, ...]:
    """The cases of a golden file; without `labels` any answer is one. ValueError with file and line in one sentence."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    cases = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            case = GoldenCase.model_validate(json.loads(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            reason = f"{where}: {first['msg']}".removeprefix(": ").removeprefix("Value error, ")
            raise ValueError(f"{path} line {number}: {reason}") from None
        except ValueError as error:
            raise ValueError(f"{path} line {number} is not JSON ({error})") from None
        if labels and case.kind == "refusal":
            raise ValueError(f"{path} line {number}: a task that classifies refuses nothing; use kind escalation")
        if labels and case.label is not None and case.label not in labels:
            raise ValueError(f"{path} line {number}: {case.label!r} is not one of the task's labels")
        cases.append(case)
    if not cases:
        raise ValueError(f"{path} holds no case")
    return tuple(cases)
