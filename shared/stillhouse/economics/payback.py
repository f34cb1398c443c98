"""Does a student pay? What a cascade saves over a horizon, after its audits and after what it took to get it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stillhouse.economics.prices import check


@dataclass(frozen=True, slots=True)
class Payback:
    """A student's economics on one route, USD.

    `teacher_only_usd` and `spent_usd` are over the horizon, the latter with the overhead. `pays_back_after_requests` is
    when the savings have made up for the overhead, at the horizon or after it; None: never.
    """

    net_saving_usd: float
    saving_per_request_usd: float
    pays_back_after_requests: int | None
    teacher_only_usd: float
    spent_usd: float


def pays(
    coverage: float, pi: float, teacher_usd: float, student_usd: float, horizon: int, overhead_usd: float
) -> Payback:
    """What `horizon` requests save when the student serves the share `coverage` of them.

    The student is asked about every request (`student_usd`). The teacher (`teacher_usd`) is asked about those that the
    student does not serve, and about the share `pi` of those that it does, for the audits. `overhead_usd` is what was
    spent once: training, gates, shadowing. Raises `ValueError` for shares outside 0..1 and for negative amounts.
    """
    check("coverage", coverage, largest=1.0)
    check("pi", pi, largest=1.0)
    check("teacher_usd", teacher_usd)
    check("student_usd", student_usd)
    check("overhead_usd", overhead_usd)
    check("horizon", horizon)
    # teacher_usd - [student_usd + teacher_usd * ((1 - coverage) + pi * coverage)], without its cancellation
    saving = teacher_usd * coverage * (1.0 - pi) - student_usd
    net = horizon * saving - overhead_usd
    return Payback(
        net_saving_usd=net,
        saving_per_request_usd=saving,
        pays_back_after_requests=_requests(overhead_usd, saving),
        teacher_only_usd=horizon * teacher_usd,
        spent_usd=horizon * teacher_usd - net,
    )


def _requests(overhead_usd: float, saving: float) -> int | None:
    """The fewest requests whose savings reach the overhead."""
    if saving <= 0.0:
        return None
    requests = overhead_usd / saving
    return math.ceil(requests) if math.isfinite(requests) else None
