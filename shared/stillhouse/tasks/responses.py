"""The gate of a task that answers in its own words: what must hold over a file of judged cases."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from stillhouse.tasks.comparators.settings import Comparator, Exact
from stillhouse.tasks.section import Section


class Agreement(Section):
    """Student and teacher give the same answer, by the comparator."""

    kind: Literal["agreement"]
    floor: float = Field(default=0.95, gt=0, lt=1)


class Preference(Section):
    """A judge finds the student's answer at least as good as the teacher's; people correct the judge."""

    kind: Literal["preference"]
    floor: float = Field(default=0.85, gt=0, lt=1)


class WinRate(Section):
    """People prefer the student's answer to the base model's, among the pairs that one of them won."""

    kind: Literal["win_rate"]
    floor: float = Field(default=0.65, gt=0, lt=1)


class NonInferiority(Section):
    """People do not prefer the base model's answer by more than the margin, over all pairs."""

    kind: Literal["non_inferiority"]
    margin: float = Field(default=0.05, gt=0, lt=1, description="Losses less wins, as a share of all pairs.")


class Hallucination(Section):
    """Answers that state what was not given: found by a check, corrected by people."""

    kind: Literal["hallucination"]
    ceiling: float = Field(default=0.04, gt=0, lt=1)
    check: Literal["rules", "judge"] = Field(
        default="rules",
        description="rules: numbers and names are looked up in what was given. judge: the judge is asked whether all "
        "that is stated follows from it. A file's own `grounded` (of an NLI model) goes before both.",
    )
    catalogue: Path | None = Field(default=None, description="Names that need no context, one a line.")


class Cost(Section):
    """What the student's answers cost less than the teacher's."""

    kind: Literal["cost"]
    floor: float = Field(default=0.5, gt=0, lt=1, description="Least share of the teacher's cost that is saved.")


ResponseCondition = Annotated[
    Agreement | Preference | WinRate | NonInferiority | Hallucination | Cost,
    Field(discriminator="kind"),
]

DEFAULTS: tuple[ResponseCondition, ...] = (
    Agreement(kind="agreement"),
    Preference(kind="preference"),
    WinRate(kind="win_rate"),
    Hallucination(kind="hallucination"),
    Cost(kind="cost"),
)


class Prices(Section):
    """What calls and people cost, USD."""

    teacher_usd: float | None = Field(default=None, ge=0, description="One teacher call, where rows do not say.")
    student_usd: float | None = Field(default=None, ge=0, description="One student call, where rows do not say.")
    largest_usd: float | None = Field(
        default=None, gt=0, description="What one call can cost at most; needed where rows have their own costs."
    )
    human_usd_per_minute: float = Field(default=0.5, ge=0)
    minutes_per_review: float = Field(default=1.0, ge=0)


class Judge(Section):
    """A model that compares two answers, through any OpenAI-compatible endpoint."""

    base_url: str
    model: str
    api_key_env: str = Field(default="OPENAI_API_KEY", description="Name of the environment variable with the key.")
    rubric: str = Field(default="Which answer is more helpful, correct and grounded in what is given?")
    timeout_s: float = Field(default=60.0, gt=0)
    max_concurrency: int = Field(default=4, ge=1, le=256)
    usd_per_call: float = Field(default=0.0, ge=0)


class ResponseGate(Section):
    """A conditions file: the five defaults where it lists none."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Chance of passing a student that breaks a condition.")
    condition: tuple[ResponseCondition, ...] = DEFAULTS
    comparator: Comparator = Exact()
    prices: Prices = Prices()
    judge: Judge | None = None

    @model_validator(mode="after")
    def _each_once(self) -> ResponseGate:
        kinds = [one.kind for one in self.condition]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ValueError(f"condition {kind!r} is named twice; keep one")
        if self.judge is None and any(
            isinstance(one, Hallucination) and one.check == "judge" for one in self.condition
        ):
            raise ValueError("condition 'hallucination' has check = \"judge\"; add [judge]")
        return self


def read_response_gate(path: Path) -> ResponseGate:
    """The gate of a TOML file; its own paths start at that file. ValueError with one sentence."""
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        gate = ResponseGate.model_validate(raw)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
    conditions = [
        one.model_copy(update={"catalogue": path.parent / one.catalogue})
        if isinstance(one, Hallucination) and one.catalogue is not None
        else one
        for one in gate.condition
    ]
    comparator: Any = gate.comparator
    if comparator.kind == "embedding":
        comparator = comparator.model_copy(update={"pairs": path.parent / comparator.pairs})
    return gate.model_copy(update={"condition": tuple(conditions), "comparator": comparator})
