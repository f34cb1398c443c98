"""Recorded teacher answers (by reference: the text itself stays in the store, where it can be erased) and costs."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stillhouse.events._base import Event

Sample = Literal["full", "audit", "escalation"]
Provenance = Literal["teacher", "human", "policy"]


class ExampleRecorded(Event):
    """A teacher answer is in the store."""

    TYPE: ClassVar[str] = "example.recorded"

    example_id: str
    request_id: str
    input_sha256: str = Field(description="Of the normalised, redacted text.")
    sample: Sample = Field(description="`full` and `audit` are unbiased; `escalation` is not.")
    provenance: Provenance = "teacher"
    teacher_version: str

    @property
    def subject(self) -> str:
        """The example id."""
        return self.example_id


class CostIncurred(Event):
    """An overhead of proving and training; the ledger takes it off the savings."""

    TYPE: ClassVar[str] = "cost.incurred"

    cause_id: str
    kind: Literal["training", "gate", "audit", "shadow", "storage", "review", "capture", "routing"]
    usd: float = Field(ge=0.0, description="0 where GPU seconds or minutes are to be priced by the price book.")
    cpu_seconds: float = Field(default=0.0, ge=0.0)
    gpu_seconds: float = Field(default=0.0, ge=0.0)
    human_minutes: float = Field(default=0.0, ge=0.0)
    note: str = ""

    @property
    def subject(self) -> str:
        """The cause's id."""
        return self.cause_id
