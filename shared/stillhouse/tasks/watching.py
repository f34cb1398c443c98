"""`[audit]` and `[drift]`: the sample that measures a live student, and when to take the traffic back."""

from __future__ import annotations

from pydantic import Field

from stillhouse.tasks.section import Section


class Audit(Section):
    """The random sample that measures a live student."""

    pi: float = Field(default=0.1, gt=0, le=1, description="Share of requests audited while live.")


class Drift(Section):
    """When to take the traffic back."""

    average_run_length: int = Field(
        default=1_000_000, ge=100, description="Mean number of audits between false alarms (ARL)."
    )
