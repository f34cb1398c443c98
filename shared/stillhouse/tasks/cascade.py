"""`[cascade]`: what a student serves, and what stays with the teacher."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stillhouse.tasks.section import Section


class Cascade(Section):
    """How a student says how sure it is."""

    confidence: Literal["max_probability", "margin", "learned"] = Field(
        default="learned",
        description="The largest probability; that less the second; or the probability of agreeing, learned on texts "
        "held back from training (the largest probability where there are too few of them).",
    )
