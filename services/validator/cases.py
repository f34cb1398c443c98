"""What a gate judges: outcomes of single cases, and what is known of a student besides them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from stillhouse.events import Condition
from stillhouse.quality.eprocess import AgreementTest

if TYPE_CHECKING:
    from stillhouse.distill.causal_lm.forgetting import Forgotten


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the student said about one case, and what the teacher had said.

    `agrees` is what the task's comparator says; None, as in outcomes written before it was kept: the labels decide.
    Of a task that generates `label` and `teacher` are empty.
    `champion_loss` is the live student's loss on the same case, where it was asked. `chars` is the input's length,
    `language` its language where the gate asks for it.
    """

    case_id: str
    label: str
    confidence: float
    teacher: str
    agrees: bool | None = None
    time: str | None = None  # RFC 3339, when it was recorded
    group: str | None = None
    chars: int = 0
    language: str | None = None
    champion_loss: bool | None = None

    def served(self, threshold: float) -> bool:
        """Whether the student would answer."""
        return self.confidence >= threshold

    def same(self) -> bool:
        """Whether student and teacher gave the same answer."""
        return self.label == self.teacher if self.agrees is None else self.agrees

    def loss(self, threshold: float) -> bool:
        """Served and different: what the promise is about."""
        return self.served(threshold) and not self.same()

    def recorded(self) -> datetime | None:
        """When the case was recorded."""
        return datetime.fromisoformat(self.time) if self.time else None


@dataclass(frozen=True, slots=True)
class Costs:
    """USD of one student prediction, and of everything spent to get this student."""

    student_usd: float
    overhead_usd: float


@dataclass(frozen=True, slots=True)
class Faced:
    """How one golden case went. `why` names what answered, for the report."""

    kind: str
    holds: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known besides the outcomes: measured once, or counted in full."""

    artefact_bytes: int = 0
    memory_bytes: int | None = None
    golden: tuple[Faced, ...] = ()
    leaked: int = 0  # golden cases that the student was trained on
    teacher: AgreementTest | None = None  # of the teacher with itself
    forgetting: Forgotten | None = None
    opinions: tuple[Condition, ...] = ()  # what a judge and people decide
    unasked: int = 0  # what people are still to say of cases that they are shown


def eligible(row: Mapping[str, Any], cutoff: datetime, learnt: Set[str], known: Set[str]) -> bool:
    """Whether an example may judge a student: it never saw it, nothing chose it, and it was not judged yet.

    `learnt` are ids and text hashes of the student's dataset. They decide, whatever clocks say: times are the services'
    own, and one that was set back or forth moves examples over the cutoff. `known` are the ids of cases already judged.
    """
    return bool(
        row["time"] > cutoff
        and row["sample"] in ("full", "audit")
        and row["provenance"] != "policy"
        and row["example_id"] not in learnt
        and row["input_sha256"] not in learnt
        and row["example_id"] not in known
    )


def finite_exp(log_value: float) -> float:
    """e-values are unbounded; JSON numbers are not."""
    return math.exp(min(log_value, 700.0))
