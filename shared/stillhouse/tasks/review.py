"""`[review]`: which answers people look at, what their time costs, and what follows from what they say."""

from __future__ import annotations

from pydantic import Field

from stillhouse.tasks.section import Section


class Review(Section):
    """What people look at, what their time costs, and what follows from what they say.

    Random cases have a share and no daily number: a number would favour the day's first hours, and only they measure.
    """

    random_share: float = Field(default=0.002, ge=0, le=1, description="Of unbiased answers, drawn uniformly.")
    policy_per_day: int = Field(default=5, ge=0, description="Cases of always-escalate rules a day (UTC).")
    suspect_label_per_day: int = Field(default=20, ge=0, description="Cases of labels that people often correct.")
    disagreement_per_day: int = Field(default=20, ge=0, description="Cases where student and teacher differ.")
    rare_class_per_day: int = Field(default=10, ge=0, description="Cases of labels that the teacher rarely says.")
    low_confidence_per_day: int = Field(default=10, ge=0, description="Cases where teacher or student was not sure.")
    low_confidence: float = Field(default=0.5, ge=0, le=1, description="Below it an answer is not sure.")
    rare_below: float = Field(default=0.02, ge=0, lt=1, description="A rarer label (share of answers) is rare.")
    keep_days: int = Field(default=30, ge=1, description="Days that a case waits before it is dropped.")
    usd_per_hour: float = Field(
        default=30.0, ge=0, description="Price of a reviewer's time, where the price book has none."
    )
    minutes_per_case: float = Field(default=1.0, ge=0, le=1440, description="Where the reviewer does not say.")
    human_weight: int = Field(default=3, ge=1, le=100, description="How often a text with a person's label trains.")
    max_corrected: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="A label that people correct more often than that (proven, 95 %) teaches only where reviewed.",
    )
    retrain_after_erasure: bool = Field(
        default=True, description="Ask for a new student where one in use was trained on what was erased."
    )
