"""`[data]`: what of everything that is recorded teaches."""

from __future__ import annotations

from pydantic import Field, field_validator

from stillhouse.tasks.responses import Judge
from stillhouse.tasks.section import Section


class Data(Section):
    """How many texts of each provenance teach, and which are kept out of it.

    A text is what is asked; a person's label of it wins over a rule's, and a rule's over the teacher's.
    """

    teacher: int | None = Field(default=None, ge=0, description="Texts that the teacher answered, at most: the newest.")
    human: int | None = Field(default=None, ge=0, description="Texts that a person labelled or approved, at most.")
    policy: int = Field(
        default=0,
        ge=0,
        description="Texts that a rule decided (refusals, escalations), at most; 0: rules do not teach.",
    )
    grounded: bool = Field(
        default=False, description="The teacher's answers that state what their request did not give do not teach."
    )
    distinct: bool = Field(
        default=False, description="Of texts that are the same but for a few letters one teaches: also across splits."
    )
    judge: Judge | None = Field(
        default=None,
        description="A model that reads the teacher's answers by its `rubric` before they teach: those that do not "
        "meet it are left out. Each answer that would teach is one call, once.",
    )

    @field_validator("judge")
    @classmethod
    def _says_what_it_asks(cls, judge: Judge | None) -> Judge | None:
        if judge is not None and "rubric" not in judge.model_fields_set:
            raise ValueError("rubric is missing; say what an answer must be to teach")
        return judge
