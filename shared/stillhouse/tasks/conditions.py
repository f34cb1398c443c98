"""`[[gate.condition]]`: what must hold besides the promise, each with its own floor or ceiling."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, field_validator

from stillhouse.tasks.responses import Hallucination, NonInferiority, Preference, WinRate
from stillhouse.tasks.section import Section

# How the names of a label's conditions begin; the label follows. The trainer's remedies go by them.
RECALL_OF: Final = "recall of "
RECALL_GAINED: Final = "recall gained in "


class Recall(Section):
    """No label is sacrificed: of the teacher's answers with a label, the share that clients still get."""

    kind: Literal["recall"]
    labels: tuple[str, ...] = Field(default=(), description="Which labels; all of the task's where none is named.")
    floor: float = Field(default=0.8, gt=0, lt=1, description="Of each label: 1 - P(served and different | label).")
    margin: float | None = Field(
        default=None, gt=0, lt=1, description="Not below the live student's by more than this, on the same cases."
    )


class Slice(Section):
    """The promise within every slice: agreement where texts are long, in each group, in each week."""

    kind: Literal["slice"]
    by: Literal["length", "language", "group", "day", "week"] = Field(description="What parts the cases into slices.")
    floor: float = Field(default=0.9, gt=0, lt=1, description="Of each slice: 1 - P(served and different | slice).")
    edges: tuple[int, ...] = Field(default=(50, 200), description="length: characters at which a new band begins.")
    languages: tuple[Annotated[str, StringConstraints(pattern="^[a-z]{2,3}$")], ...] = Field(
        default=(), description="language: ISO 639-1 codes of those that may come; with few of them fewer are mistaken."
    )
    least_share: float = Field(
        default=0.05, ge=0, lt=1, description="Slices with less of the cases than this are shown, and decide nothing."
    )

    @field_validator("edges")
    @classmethod
    def _ascend(cls, edges: tuple[int, ...]) -> tuple[int, ...]:
        if not edges or any(later <= earlier for earlier, later in zip((0, *edges), edges, strict=False)):
            raise ValueError("edges must be positive and ascend")
        return edges


class Cost(Section):
    """What 1,000 requests cost less than by the teacher alone, audits counted, training and gates not."""

    kind: Literal["cost"]
    floor: float = Field(default=0.5, gt=0, lt=1, description="Least share of the teacher's cost that is saved.")


class Calibration(Section):
    """Confidence means what it says: error over bins of equal width, against agreement, over all cases."""

    kind: Literal["calibration"]
    ceiling: float = Field(default=0.1, gt=0, lt=1, description="Largest calibration error.")
    bins: int = Field(default=10, ge=2, le=20)


class Latency(Section):
    """In shadow: at least 99 % of requests answered in time, decided with error control instead of estimated."""

    kind: Literal["latency"]
    ceiling: float = Field(gt=0, description="Milliseconds, waiting included.")


class Size(Section):
    """The artefact's files."""

    kind: Literal["size"]
    ceiling: float = Field(gt=0, description="Megabytes (10^6 bytes).")


class Memory(Section):
    """Peak resident memory of the processes that load the artefact and answer, measured where the gate runs."""

    kind: Literal["memory"]
    ceiling: float = Field(gt=0, description="Megabytes (10^6 bytes).")


class Forgetting(Section):
    """A student that writes still knows what its base model knew: measured on texts that are not of the task."""

    kind: Literal["forgetting"]
    ceiling: float = Field(default=0.5, gt=0, description="KL(base, student), nats a token, over the probes' texts.")
    floor: float = Field(default=0.8, gt=0, le=1, description="Of the probes that the base gets right, kept right.")
    probes: Path | None = Field(
        default=None, description="JSONL of `question`, `right`, `wrong` (a list); None: the suite that comes along."
    )


# What only tasks that generate are asked; the first four are about answers that the student would serve.
AnswerCondition = Preference | WinRate | NonInferiority | Hallucination
GateCondition = Annotated[
    Recall | Slice | Cost | Calibration | Latency | Size | Memory | AnswerCondition | Forgetting,
    Field(discriminator="kind"),
]

RESPONSE_DEFAULTS: Final[tuple[GateCondition, ...]] = (
    Preference(kind="preference"),
    WinRate(kind="win_rate"),
    Hallucination(kind="hallucination"),
    Cost(kind="cost"),
)
