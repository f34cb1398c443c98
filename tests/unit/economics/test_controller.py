"""Rates, projections and break-even: intervals that hold, closed forms, and what speaks against a student."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.economics.controller import DAYS_PER_MONTH, Usage, against_student, beside_target, outlook, rate_of


def usage(**changes) -> Usage:
    fields = {
        "requests": [1000, 1200, 800, 1000],
        "days": 4.0,
        "teacher_usd": 0.01,
        "student_usd": None,
        "coverage": None,
        "running_usd": 0.0,
        "once_usd": 5.0,
    }
    return Usage(**(fields | changes))


def test_known_figures() -> None:
    found = outlook(usage(coverage=0.5, student_usd=0.001), pi=0.1, least_coverage=0.2)
    assert found.requests_per_day.estimate == 1000
    assert found.teacher_usd_per_1000 == pytest.approx(10.0)
    assert found.teacher_usd_per_month.estimate == pytest.approx(10.0 * DAYS_PER_MONTH)
    # each request saves 0.01 * 0.5 * 0.9 - 0.001 = 0.0035
    assert found.student_usd_per_1000.estimate == pytest.approx(6.5)
    assert found.break_even_requests is not None
    assert found.break_even_requests.estimate == math.ceil(5.0 / 0.0035)
    assert found.break_even_days is not None
    assert found.break_even_days.estimate == pytest.approx(1.429)
    assert found.break_even_days.lower < 1.429 < found.break_even_days.upper
    assert found.numbers()["break_even_days"] == found.break_even_days.estimate


def test_before_a_student_serves_the_break_even_is_a_range() -> None:
    found = outlook(usage(), pi=0.1, least_coverage=0.2)
    assert found.break_even_requests is not None
    at_best, at_worst = 5.0 / (0.01 * 0.9), 5.0 / (0.01 * 0.2 * 0.9)
    assert found.break_even_requests.lower == math.ceil(at_best)
    assert found.break_even_requests.upper == math.ceil(at_worst)


def test_overheads_that_go_on_can_eat_the_saving() -> None:
    found = outlook(usage(running_usd=100.0), pi=0.1, least_coverage=0.2)
    assert found.break_even_requests is None
    assert "break_even_days" not in found.numbers()
    assert against_student(found, 100_000, None) is None, "they go on without a student too"
    dear = outlook(usage(student_usd=0.02), pi=0.1, least_coverage=0.2)
    assert "its own calls and its audits outweigh it" in str(against_student(dear, 100_000, None))


def test_a_target_that_the_teacher_keeps_needs_no_student() -> None:
    found = outlook(usage(), pi=0.1, least_coverage=0.2)
    assert against_student(found, 100_000, None) is None
    assert against_student(found, 100_000, 9.0) is None
    assert against_student(found, 100_000, 10.0) == "the teacher alone keeps the target of 10 USD per 1,000 requests"
    assert beside_target(3.0, 4.0) == "; it keeps the target of 4 USD per 1,000 requests"
    assert beside_target(5.0, 4.0) == "; it misses the target of 4 USD per 1,000 requests"
    assert beside_target(5.0, None) == beside_target(None, 4.0) == ""


@pytest.mark.parametrize("days", [1, 7])
def test_the_rate_is_held_in_95_of_100_weeks(days) -> None:
    """One day: Poisson counts, exactly. Seven: days that differ by a fifth, between-day interval."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(2000):
        means = np.full(1, 400.0) if days == 1 else rng.normal(400, 80, days).clip(0)
        found = rate_of([int(n) for n in rng.poisson(means)], float(days))
        held += found.lower <= 400 <= found.upper
    assert held / 2000 >= 0.94, held


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=10), st.floats(0.1, 30.0))
def test_a_rate_lies_within_its_interval(requests, days) -> None:
    found = rate_of(requests, days)
    assert 0.0 <= found.lower <= found.estimate * (1 + 1e-9)
    assert found.estimate <= found.upper * (1 + 1e-9)


def test_nothing_measured_is_nothing_known() -> None:
    found = rate_of([], 0.0)
    assert (found.estimate, found.lower, found.upper) == (0.0, 0.0, math.inf)
