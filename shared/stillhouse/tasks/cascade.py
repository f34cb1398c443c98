"""`[cascade]`: what a student serves, and what stays with the teacher."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stillhouse.tasks.section import Section


class Cascade(Section):
    """How a student says how sure it is, and what is promised of what it serves."""

    confidence: Literal["max_probability", "margin", "learned", "self_consistency"] = Field(
        default="learned",
        description="The largest probability; that less the second; or the probability of agreeing, learned on texts "
        "held back from training (the largest probability where there are too few of them). self_consistency, for "
        "students that write: the share of answers drawn at random that say the same, at six times the cost.",
    )
    promise: Literal["overall", "selective"] = Field(
        default="overall",
        description="What `gate.epsilon` bounds: the share of all requests that are served by the student and differ "
        "from the teacher, or, stricter, the share of those among the served.",
    )

    recalibrate_every: int = Field(
        default=2000,
        ge=0,
        description="Audits of the live student after which its threshold may move, where they certify the new one. "
        "0: it never moves.",
    )
    groups: bool = Field(
        default=False, description="Recalibration gives each of the requests' groups a threshold of its own."
    )
    by_length: bool = Field(
        default=False,
        description="classify: recalibration finds a second threshold, a length beyond which the teacher answers; both "
        "are certified together (Learn-then-Test). Not beside `groups`.",
    )
    unproven_group: Literal["global", "teacher"] = Field(
        default="global", description="What answers groups without one: the student at its threshold, or the teacher."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Cascade:
        if self.groups and self.by_length:
            raise ValueError("groups and by_length exclude each other; keep one")
        return self

    @property
    def selective(self) -> bool:
        """Whether the promise is on what the student serves."""
        return self.promise == "selective"

    def counts(self, would_serve: bool) -> bool:
        """Whether a request is one of those that the promise is about; tests of the promise count no others."""
        return would_serve or not self.selective

    def sentence(self, epsilon: float) -> str:
        """The promise, as people read it."""
        if self.selective:
            return f"At most {epsilon:.1%} of the requests that the student answers differ from the teacher."
        return f"At most {epsilon:.1%} of all requests are answered by the student and differ from the teacher."
