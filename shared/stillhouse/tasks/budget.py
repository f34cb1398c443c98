"""`[budget]`: when to spend on a student, and the limits that no call of the teacher exceeds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stillhouse.economics.limits import Limits
from stillhouse.tasks.section import Section


class Budget(Section):
    """When to spend on a student, and how much may be spent at all. No limit declared: there is none."""

    min_examples: int = Field(default=1500, ge=50, description="Recorded answers before the first training.")
    min_new_examples: int = Field(default=1500, ge=50, description="New ones since a drift alarm or failed student.")
    max_train_examples: int = Field(default=20_000, ge=50, description="Newest ones are used.")
    usd_per_cpu_hour: float = Field(
        default=0.05, ge=0, description="Price of measured CPU time, where the price book names none."
    )
    usd_per_day: float | None = Field(
        default=None, gt=0, description="Hard limit of a day (UTC): no teacher is called beyond it. None: no limit."
    )
    usd_per_month: float | None = Field(
        default=None, gt=0, description="Hard limit of a calendar month (UTC). None: no limit."
    )
    usd_per_1000: float | None = Field(
        default=None,
        gt=0,
        description="Target of 1,000 requests, everything included: no student is trained where the teacher alone "
        "keeps it, and decisions say whether a student does. None: save whatever can be saved.",
    )
    at_limit: Literal["student_only", "queue", "reject"] = Field(
        default="student_only",
        description="At a limit: `student_only`: the student answers what it may under its promise, the rest gets the "
        "error `budget`; `queue`: the rest waits in `inference.parked` for the next day or month; `reject`: "
        "everything gets the error, the student's share too.",
    )
    kept_for_audits: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of the limits that only audits may spend, so that a student that serves stays watched.",
    )
    horizon_requests: int = Field(default=100_000, ge=1, description="Requests over which a student must pay back.")
    min_saving_usd: float = Field(default=0.0, description="Net saving over the horizon below which it does not pay.")

    @property
    def limits(self) -> Limits:
        """The hard limits."""
        return Limits(self.usd_per_day, self.usd_per_month, self.kept_for_audits)
