"""A task as its TOML file declares it. Every key is described here; unknown keys are refused."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator, model_validator

from stillhouse.tasks.budget import Budget
from stillhouse.tasks.cascade import Cascade
from stillhouse.tasks.comparators.settings import Own, Ranking
from stillhouse.tasks.conditions import RankingQuality
from stillhouse.tasks.data import Data
from stillhouse.tasks.gate import Gate
from stillhouse.tasks.prices import PriceBook
from stillhouse.tasks.rerankers import RerankerStudent
from stillhouse.tasks.review import Review
from stillhouse.tasks.section import Name, Section
from stillhouse.tasks.students import AnyStudent, LanguageModel, StudentCandidate
from stillhouse.tasks.teachers import AnyTeacher, CrossEncoder, RerankEndpoint, Teacher
from stillhouse.tasks.watching import Audit, Drift

RANKS: Final = (CrossEncoder, RerankEndpoint)


class Task(Section):
    """One kind of request with one contract, a teacher, a ladder of students, a gate and a budget."""

    name: Name
    tenant: Name = "default"
    kind: Literal["classify", "generate", "rerank"] = Field(
        default="classify",
        description="`classify`: one of the labels. `generate`: what a chat model writes. `rerank`: the order of "
        "documents for a query.",
    )
    description: str = ""
    criticality: Literal["normal", "high"] = "normal"
    labels: tuple[str, ...] = Field(default=(), description="classify: at least two.")
    max_input_chars: int = Field(default=8000, ge=1, le=200_000)
    group_by: Literal["none", "group"] = Field(default="none", description="`group`: split by the request's group.")
    teacher: AnyTeacher
    response_schema: Path | None = Field(
        default=None, description="generate: JSON Schema of the answers; students are held to it while they write."
    )
    students: tuple[AnyStudent, ...] = Field(
        default=(), description="classify: at least one. Others: none, and the teacher answers everything; or some."
    )
    gate: Gate = Gate()
    cascade: Cascade = Cascade()
    audit: Audit = Audit()
    drift: Drift = Drift()
    budget: Budget = Budget()
    review: Review = Review()
    data: Data = Data()
    prices: PriceBook = Field(default=PriceBook(), description="Of `prices.toml` beside the task file.")

    def usd_per_call(self, at: datetime) -> float:
        """The list price of one call of the teacher at a moment."""
        usd = self.prices.usd_per_call(self.key, at)
        return self.teacher.usd_per_call if usd is None else usd

    def most_usd(self, at: datetime) -> float:
        """The most that one call of the teacher can cost at a moment: what is set aside for it."""
        return self.usd_per_call(at) + self.teacher.most_tokens_usd(self.max_input_chars)

    def usd_per_cpu_hour(self, at: datetime) -> float:
        """The price of measured CPU time at a moment."""
        usd = self.prices.usd("usd_per_cpu_hour", at)
        return self.budget.usd_per_cpu_hour if usd is None else usd

    def priced(self, at: datetime) -> Task:
        """The task with the prices of a moment in the place of the declared ones: what decisions are made with."""
        teacher = self.teacher.model_copy(update={"usd_per_call": self.usd_per_call(at)})
        budget = self.budget.model_copy(update={"usd_per_cpu_hour": self.usd_per_cpu_hour(at)})
        return self.model_copy(update={"teacher": teacher, "budget": budget})

    @property
    def ensemble(self) -> Teacher:
        """The teacher of a task that classifies. TypeError for others: they have none that is fitted here."""
        if not isinstance(self.teacher, Teacher):
            raise TypeError(f"the teacher of {self.key} is of kind {self.teacher.kind}")
        return self.teacher

    @property
    def key(self) -> str:
        """`<tenant>/<task>`."""
        return f"{self.tenant}/{self.name}"

    def usd_of(self, at: datetime, gpu_seconds: float, human_minutes: float) -> float:
        """What was measured, at the price book's prices of a moment; what it names no price for costs nothing."""
        gpu, human = (self.prices.usd(unit, at) or 0.0 for unit in ("usd_per_gpu_hour", "usd_per_human_hour"))
        return gpu_seconds / 3600 * gpu + human_minutes / 60 * human

    @field_validator("labels")
    @classmethod
    def _unique(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels):
            raise ValueError("labels repeat; name each label once")
        return labels

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Task:
        if self.kind == "classify":
            if len(self.labels) < 2:
                raise ValueError("labels must name at least two labels")
            if not self.students:
                raise ValueError("a task that classifies needs at least one [[student]]")
            if not isinstance(self.teacher, Teacher):
                does, kind = ("ranks", "rerank") if isinstance(self.teacher, RANKS) else ("writes", "generate")
                raise ValueError(f"a teacher of kind {self.teacher.kind!r} {does}; give it a task of kind {kind}")
        elif self.kind == "rerank":
            if self.labels or not isinstance(self.teacher, RANKS):
                raise ValueError(
                    "a task that reranks has no labels, and a teacher of kind cross_encoder or rerank_endpoint"
                )
            if not isinstance(self.gate.comparator, Ranking | Own):
                raise ValueError("a task that reranks needs a [gate.comparator] of kind ranking or callable")
        elif self.labels or isinstance(self.teacher, (Teacher, *RANKS)):
            raise ValueError(
                "a task that generates has no labels, and a teacher that writes: openai, anthropic or recorded"
            )
        wanted = {"classify": StudentCandidate, "generate": LanguageModel, "rerank": RerankerStudent}[self.kind]
        for candidate in self.students:
            if not isinstance(candidate, wanted):
                raise ValueError(f"a student of architecture {candidate.architecture} is not for kind {self.kind}")
        return self

    @model_validator(mode="after")
    def _asks_for_what_its_kind_has(self) -> Task:
        if self.kind != "generate":
            if self.response_schema is not None:
                raise ValueError("response_schema is for tasks of kind generate")
            if self.cascade.confidence == "self_consistency":
                raise ValueError("cascade.confidence self_consistency is for tasks of kind generate; use learned")
            if (named := self.gate.needs_writing) is not None:
                raise ValueError(f"gate: {named} is for tasks of kind generate")
        if self.kind != "classify" and any(one.kind == "recall" for one in self.gate.condition):
            raise ValueError("gate: recall is of labels, which only a task that classifies has")
        if self.kind != "classify" and self.cascade.by_length:
            raise ValueError("cascade: by_length is for tasks of kind classify")
        if self.kind != "rerank" and any(isinstance(one, RankingQuality) for one in self.gate.condition):
            raise ValueError("a gate.condition of kind ranking is for tasks of kind rerank")
        return self

    @model_validator(mode="after")
    def _known_labels_are_used(self) -> Task:
        for candidate in self.students:
            for label in candidate.class_alpha if isinstance(candidate, StudentCandidate) else ():
                if label not in self.labels:
                    raise ValueError(f"class_alpha of a student names {label!r}, which is not in labels")
        for rule in self.teacher.escalate:
            if rule.label is not None and rule.label not in self.labels:
                raise ValueError(f"escalation rule {rule.name!r} decides {rule.label!r}, which is not in labels")
        return self

    @model_validator(mode="after")
    def _gate_uses_known_labels(self) -> Task:
        unknown = self.gate.unknown_label(self.labels)
        if unknown is not None:
            raise ValueError(f"gate.condition names {unknown!r}, which is not in labels")
        return self
