"""The summary of a ledger: what counts as a request, what as an overhead, and that sums are sums."""

from __future__ import annotations

import random
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.economics import summarise
from stillhouse.store import LedgerRow

START = datetime(2026, 1, 1, tzinfo=UTC)


def row(i: int, kind: str = "request", usd: float = 0.0, **changes: Any) -> dict[str, Any]:
    fields = {"entry_id": f"{i}", "tenant": "default", "task": "a", "cause_id": f"r{i}"}
    return asdict(LedgerRow(time=START + timedelta(seconds=i), kind=kind, usd=usd, **(fields | changes)))


def by_teacher(i: int, **changes: Any) -> dict[str, Any]:
    fields = {"usd": 0.002, "teacher_usd": 0.002, "served_by": "teacher", "teacher_cpu_ms": 36.0}
    return row(i, **(fields | changes))


def by_student(i: int, **changes: Any) -> dict[str, Any]:
    return row(i, usd=1e-6, teacher_usd=0.002, served_by="student", student_cpu_ms=0.5, **changes)


def test_an_empty_ledger_has_no_costs() -> None:
    nothing = summarise([])
    assert nothing.requests == nothing.spent_usd == nothing.net_saving_usd == 0
    assert nothing.series == []
    costs = nothing.cost_per_1k(0.05)
    assert (costs.teacher, costs.net, costs.teacher_cpu, costs.student_cpu) == (None, None, None, None)


def test_a_small_ledger() -> None:
    rows = [by_teacher(i) for i in range(10)] + [by_student(i) for i in range(10, 100)]
    rows += [
        row(100, "audit", 0.002, served_by="student", teacher_cpu_ms=36.0),
        row(101, "training", 0.01, cpu_seconds=720.0),
        row(102, "gate", 0.001, cpu_seconds=72.0),
    ]
    savings = summarise(rows)
    assert (savings.requests, savings.served_by) == (100, {"teacher": 10, "student": 90})
    assert savings.teacher_only_usd == pytest.approx(0.2)
    assert savings.spent_by_kind == pytest.approx(
        {"request": 0.02 + 90e-6, "audit": 0.002, "training": 0.01, "gate": 0.001}
    )
    assert savings.overhead_usd == pytest.approx(0.013)
    assert savings.net_saving_usd == pytest.approx(0.2 - 0.02 - 90e-6 - 0.013)
    assert savings.overhead_cpu_seconds == pytest.approx(792.0)
    costs = savings.cost_per_1k(usd_per_cpu_hour=0.05)
    assert costs.teacher == pytest.approx(2.0)
    assert costs.net == pytest.approx((0.02 + 90e-6 + 0.013) * 10)
    # 36 ms for each of 11 calls, the audit's among them; an hour costs 0.05.
    assert costs.teacher_cpu == pytest.approx(36 / 3_600_000 * 0.05 * 1000)
    assert costs.student_cpu == pytest.approx(0.5 / 3_600_000 * 0.05 * 1000)


def test_what_stillhouse_asks_for_itself_is_an_overhead_however_it_is_booked() -> None:
    asked = [by_teacher(1, purpose="gate"), by_teacher(2, kind="backfill", purpose="backfill", teacher_usd=0.0)]
    savings = summarise([by_student(0), *asked])
    assert savings.requests == 1
    assert savings.teacher_only_usd == pytest.approx(0.002)
    assert savings.spent_by_kind == pytest.approx({"request": 1e-6, "gate": 0.002, "backfill": 0.002})
    assert savings.overhead_usd == pytest.approx(0.004)


def test_failed_and_observed_requests_are_counted_apart() -> None:
    rows = [by_teacher(0), row(1, reason="deadline"), by_teacher(2, purpose="observe")]
    savings = summarise(rows)
    assert (savings.requests, savings.failed, savings.observed) == (1, 1, 1)
    assert savings.spent_usd == savings.teacher_only_usd == pytest.approx(0.002)
    assert savings.teacher_calls == 1


ENTRIES = st.lists(
    st.builds(
        row,
        st.integers(0, 1000),
        kind=st.sampled_from(["request", "audit", "training", "gate", "storage", "shadow"]),
        usd=st.floats(0, 1),
        teacher_usd=st.floats(0, 1),
        served_by=st.sampled_from(["teacher", "student", None]),
        purpose=st.sampled_from(["serve", "serve", "gate", "backfill", "observe"]),
        teacher_cpu_ms=st.floats(0, 100),
        student_cpu_ms=st.floats(0, 100),
    ),
    max_size=60,
)


@given(ENTRIES, st.integers(1, 80), st.randoms(use_true_random=False))
def test_sums_are_sums_in_any_order(rows, points, random_: random.Random) -> None:
    savings = summarise(rows, points)
    assert savings.spent_usd == pytest.approx(sum(savings.spent_by_kind.values()))
    assert savings.net_saving_usd == pytest.approx(savings.teacher_only_usd - savings.spent_usd)
    assert savings.overhead_usd <= savings.spent_usd + 1e-9
    assert savings.requests == sum(savings.served_by.values())
    assert [p.spent_usd for p in savings.series] == sorted(p.spent_usd for p in savings.series)
    assert len(savings.series) <= 2 * points + 1
    if savings.series:
        last = savings.series[-1]
        assert (last.requests, last.spent_usd) == (savings.requests, savings.spent_usd)
        assert last.teacher_only_usd == savings.teacher_only_usd
    shuffled = list(rows)
    random_.shuffle(shuffled)
    again = summarise(shuffled, points)
    assert again.served_by == savings.served_by
    assert again.spent_by_kind == pytest.approx(savings.spent_by_kind)
