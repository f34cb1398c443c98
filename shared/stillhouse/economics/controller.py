"""The budget controller's arithmetic: what a task costs at its measured rate, and when a student has paid for itself.

The rate is the mean of whole days with Student's interval between days, because traffic varies by day far more than
chance does within one; of fewer than three days it is the exact Poisson interval (Garwood 1936), and says less than it
seems to. A student's coverage is measured where one serves; before that it is only known to lie between the gate's
floor and everything, so the break-even is a range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.economics.payback import pays

DAYS_PER_MONTH = 365.25 / 12


@dataclass(frozen=True, slots=True)
class Usage:
    """What was measured of a task: requests of each day, USD per request, and overheads per day and in all.

    `days` is how long that was; where it is three whole days or more, `requests` holds one count for each.
    `student_usd` is None where no student ever answered, `coverage` where none serves. `running_usd` are the overheads
    of a day that go on as long as a student lives, beside its audits (storage, capture, routing, reviews); `once_usd`
    is what training and proving students has cost so far.
    """

    requests: Sequence[int]
    days: float
    teacher_usd: float
    student_usd: float | None
    coverage: float | None
    running_usd: float
    once_usd: float


@dataclass(frozen=True, slots=True)
class Range:
    """An estimate between two bounds."""

    estimate: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the measured rate comes to, USD. Break-even None: never at that coverage."""

    requests_per_day: Range
    teacher_usd_per_1000: float
    teacher_usd_per_month: Range
    student_usd_per_1000: Range
    student_usd_per_month: Range
    break_even_requests: Range | None
    break_even_days: Range | None
    spent_once_usd: float
    running_usd_per_1000: float

    def numbers(self) -> dict[str, float]:
        """As `budget.evaluated` holds them."""
        said = {
            "requests_per_day": self.requests_per_day.estimate,
            "requests_per_day_low": self.requests_per_day.lower,
            "requests_per_day_high": self.requests_per_day.upper,
            "teacher_usd_per_1000": self.teacher_usd_per_1000,
            "teacher_usd_per_month": self.teacher_usd_per_month.estimate,
            "student_usd_per_1000_low": self.student_usd_per_1000.lower,
            "student_usd_per_1000_high": self.student_usd_per_1000.upper,
            "student_usd_per_month": self.student_usd_per_month.estimate,
            "spent_once_usd": self.spent_once_usd,
            "running_usd_per_1000": self.running_usd_per_1000,
        }
        if self.break_even_requests is not None and self.break_even_days is not None:
            said |= {
                "break_even_requests": self.break_even_requests.estimate,
                "break_even_days": self.break_even_days.estimate,
                "break_even_days_low": self.break_even_days.lower,
                "break_even_days_high": self.break_even_days.upper,
            }
        return {name: value for name, value in said.items() if math.isfinite(value)}


def rate_of(requests: Sequence[int], days: float) -> Range:
    """Requests a day, with a 95 % interval: between days, or of the count where there are fewer than three."""
    from scipy.stats import chi2, t

    total, n = sum(requests), len(requests)
    if n >= 3:
        mean = total / n
        spread = math.sqrt(sum((count - mean) ** 2 for count in requests) / (n - 1) / n)
        half = float(t.ppf(0.975, n - 1)) * spread
        return Range(mean, max(0.0, mean - half), mean + half)
    if days <= 0:
        return Range(0.0, 0.0, math.inf)
    lower = float(chi2.ppf(0.025, 2 * total)) / 2 if total else 0.0
    return Range(total / days, lower / days, float(chi2.ppf(0.975, 2 * total + 2)) / 2 / days)


def outlook(usage: Usage, pi: float, least_coverage: float) -> Outlook:
    """What `usage` comes to. Before a student serves, its coverage is between `least_coverage` and 1."""
    rate = rate_of(usage.requests, usage.days)
    low, high = (usage.coverage, usage.coverage) if usage.coverage is not None else (least_coverage, 1.0)
    per_request = usage.running_usd / rate.estimate if rate.estimate > 0 else 0.0
    savings = [
        pays(coverage, pi, usage.teacher_usd, (usage.student_usd or 0.0) + per_request, 0, usage.once_usd)
        for coverage in (high, (low + high) / 2, low)
    ]
    best, middle, worst = (usage.teacher_usd - one.saving_per_request_usd for one in savings)
    after = [math.inf if one.pays_back_after_requests is None else one.pays_back_after_requests for one in savings]
    requests = Range(after[1], after[0], after[2]) if math.isfinite(after[0]) else None
    days = None
    if requests is not None and rate.estimate > 0:
        slowest = requests.upper / rate.lower if rate.lower > 0 else math.inf
        days = Range(requests.estimate / rate.estimate, requests.lower / rate.upper, slowest)
    monthly = DAYS_PER_MONTH
    return Outlook(
        requests_per_day=rate,
        teacher_usd_per_1000=1000 * usage.teacher_usd,
        teacher_usd_per_month=_times(rate, monthly * usage.teacher_usd),
        student_usd_per_1000=Range(1000 * middle, 1000 * best, 1000 * worst),
        student_usd_per_month=Range(
            rate.estimate * monthly * middle, rate.lower * monthly * best, rate.upper * monthly * worst
        ),
        break_even_requests=requests,
        break_even_days=days,
        spent_once_usd=usage.once_usd,
        running_usd_per_1000=1000 * per_request,
    )


def against_student(found: Outlook, horizon_requests: int, target_usd_per_1000: float | None) -> str | None:
    """Why the money says that no student should be trained; None: it does not say so.

    Decided on the best case: a student that answers everything. What was spent already, and what goes on without a
    student too (storage, capture, routing), does not count here; it counts in the break-even.
    """
    if target_usd_per_1000 is not None and found.teacher_usd_per_1000 <= target_usd_per_1000:
        return f"the teacher alone keeps the target of {target_usd_per_1000:g} USD per 1,000 requests"
    if found.student_usd_per_1000.lower - found.running_usd_per_1000 >= found.teacher_usd_per_1000:
        return (
            f"even a student that answered everything would cost more than the teacher over {horizon_requests:,} "
            "requests: its own calls and its audits outweigh it"
        )
    return None


def beside_target(usd_per_1000: float | None, target: float | None) -> str:
    """What is said of the target while a student serves; nothing where there is none or nothing was measured."""
    if usd_per_1000 is None or target is None:
        return ""
    kept = "keeps" if usd_per_1000 <= target else "misses"
    return f"; it {kept} the target of {target:g} USD per 1,000 requests"


def _times(found: Range, factor: float) -> Range:
    return Range(found.estimate * factor, found.lower * factor, found.upper * factor)
