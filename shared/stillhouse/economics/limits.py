"""The hard limits of a task: how much it may spend in a day and in a month, and when the next one begins.

Days and months are those of UTC. Amounts are counted in whole billionths of a dollar, so that sums are exact however
often they are added to and taken from: a reservation is rounded up, a limit down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from stillhouse.economics.prices import check

NANOS: Final = 1_000_000_000  # in a dollar

Period = Literal["day", "month"]
PERIODS: Final[tuple[Period, ...]] = ("day", "month")


@dataclass(frozen=True, slots=True)
class Limits:
    """USD that may be spent; None: no limit. `kept_back` is the share of each that only audits may spend."""

    usd_per_day: float | None = None
    usd_per_month: float | None = None
    kept_back: float = 0.0

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return self.usd_per_day is not None or self.usd_per_month is not None

    def usd(self, period: Period) -> float | None:
        """The limit of a `period`."""
        return self.usd_per_day if period == "day" else self.usd_per_month

    def nanos(self, period: Period, *, audit: bool) -> int | None:
        """What may be spent in a `period`, by audits or by all else."""
        usd = self.usd(period)
        if usd is None:
            return None
        return math.floor(usd * (1.0 if audit else 1.0 - self.kept_back) * NANOS + 0.5)


def nanos(usd: float) -> int:
    """An amount in billionths of a dollar, rounded up. Raises `ValueError` for what is no amount."""
    return math.ceil(check("usd", usd) * NANOS - 1e-6)


def name_of(period: Period, at: datetime) -> str:
    """The day or month that `at` is in: `2026-11-23` or `2026-11`."""
    return at.astimezone(UTC).strftime("%Y-%m-%d" if period == "day" else "%Y-%m")


def begin_of(period: Period, at: datetime) -> datetime:
    """When the day or month that `at` is in began."""
    midnight = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight if period == "day" else midnight.replace(day=1)


def end_of(period: Period, at: datetime) -> datetime:
    """When the next day or month begins."""
    begin = begin_of(period, at)
    if period == "day":
        return begin + timedelta(days=1)
    return (begin + timedelta(days=32)).replace(day=1)
