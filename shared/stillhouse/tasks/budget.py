"""`[budget]`: when to spend on a student."""

from __future__ import annotations

from pydantic import Field

from stillhouse.tasks.section import Section


class Budget(Section):
    """When to spend on a student."""

    min_examples: int = Field(default=1500, ge=50, description="Recorded answers before the first training.")
    min_new_examples: int = Field(default=1500, ge=50, description="New ones since a drift alarm or failed student.")
    max_train_examples: int = Field(default=20_000, ge=50, description="Newest ones are used.")
    usd_per_cpu_hour: float = Field(default=0.05, ge=0, description="Price of measured CPU time.")
    usd_per_day: float | None = Field(
        default=None, gt=0, description="Warn (alert BudgetNearlySpent) at 80 % of it; nothing stops. None: no limit."
    )
    horizon_requests: int = Field(default=100_000, ge=1, description="Requests over which a student must pay back.")
    min_saving_usd: float = Field(default=0.0, description="Net saving over the horizon below which it does not pay.")
