"""`[gate.comparator]`: when two answers count as the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from stillhouse.tasks.section import Section


class Exact(Section):
    """Character by character: right for labels."""

    kind: Literal["exact"] = "exact"


class JsonFields(Section):
    """JSON documents, field by field; the score is the share of fields that are equal."""

    kind: Literal["json"]
    fields: tuple[str, ...] = Field(default=(), description="Paths such as `address.city`; none: every field there is.")
    tolerance: float = Field(default=0.0, ge=0, description="Numbers are equal within this share of the larger one.")
    at_least: float = Field(default=1.0, gt=0, le=1, description="Score from which two documents are the same.")


class Numeric(Section):
    """Numbers, equal within either tolerance."""

    kind: Literal["numeric"]
    absolute: float = Field(default=0.0, ge=0)
    relative: float = Field(default=1e-9, ge=0, description="Share of the teacher's number.")


class SetF1(Section):
    """Sets of items, written as a JSON list or separated by commas; the score is F1."""

    kind: Literal["set"]
    at_least: float = Field(default=1.0, gt=0, le=1)


class Ranking(Section):
    """Orders of items, written as a JSON list or separated by commas."""

    kind: Literal["ranking"]
    metric: Literal["ndcg", "kendall", "mrr"] = Field(
        default="ndcg",
        description="ndcg: gains from the teacher's order; kendall: share of pairs in the same order; mrr: one over "
        "our rank of the teacher's first.",
    )
    k: int | None = Field(default=None, ge=1, description="ndcg: only the first k places; None: all.")
    at_least: float = Field(default=0.9, gt=0, le=1)


class Embedding(Section):
    """Texts whose sentence vectors are close; how close is calibrated on pairs that people labelled."""

    kind: Literal["embedding"]
    pairs: Path = Field(description="JSONL of `a`, `b`, `same`; a relative path starts at the task file.")
    epsilon: float = Field(default=0.05, gt=0, lt=0.5, description="Largest P(called the same and different).")
    delta: float = Field(default=0.05, gt=0, lt=0.5, description="Chance that the threshold does not keep it.")


class Own(Section):
    """A function of yours, `function(student, teacher) -> bool | float`, floats between 0 and 1."""

    kind: Literal["callable"]
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="`module:function`, importable.")
    at_least: float = Field(default=1.0, gt=0, le=1)


Comparator = Annotated[
    Exact | JsonFields | Numeric | SetF1 | Ranking | Embedding | Own,
    Field(discriminator="kind"),
]
