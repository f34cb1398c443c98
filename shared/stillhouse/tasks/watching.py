"""`[audit]` and `[drift]`: the sample that measures a live student, and when to take the traffic back."""

from __future__ import annotations

from pydantic import Field

from stillhouse.tasks.section import Section


class Audit(Section):
    """The random sample that measures a live student."""

    pi: float = Field(default=0.1, gt=0, le=1, description="Share of requests audited while live.")
    min_per_day: int = Field(
        default=20, ge=0, description="Audits a day at least: with few requests, a larger share of them is audited."
    )


class Drift(Section):
    """When to take the traffic back, and when to look closer."""

    average_run_length: int = Field(
        default=1_000_000, ge=100, description="Mean number of audits between false alarms (ARL)."
    )
    false_suspicions: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Chance of a false suspicion of changed inputs in 10,000 requests. 0: inputs are not watched.",
    )
    window: int = Field(
        default=500, ge=50, le=5000, description="Requests that inputs are compared over, with the first so many."
    )
    suspected_pi: float = Field(default=0.5, gt=0, le=1, description="Share of requests audited under suspicion.")
    teacher_checks_per_day: int = Field(
        default=20, ge=0, description="Recorded requests that the teacher is asked again while a student is live."
    )
    stable_after: int = Field(
        default=2000, ge=1, description="Audits that a student should live; drift before that lengthens the wait."
    )
    replay_share: float = Field(
        default=0.3, ge=0, lt=1, description="Largest weight of training data from before the last drift, of all."
    )
    clear_after: int = Field(default=300, ge=20, description="Audits without an alarm that clear a suspicion.")
