"""Payback: the formula against a simulation of the route, and what must hold of it whatever the numbers."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.economics import Price, cpu_usd, pays

SHARES = st.floats(0.0, 1.0)
USD = st.floats(0.0, 1.0)
HORIZONS = st.integers(0, 10_000_000)


def test_it_is_what_a_route_costs_request_by_request() -> None:
    coverage, pi, teacher, student, overhead, n = 0.7, 0.2, 0.002, 0.00001, 3.0, 100_000
    random_ = random.Random(7)
    spent = overhead
    for _ in range(n):
        served, audited = random_.random() < coverage, random_.random() < pi
        spent += student
        if not served or audited:
            spent += teacher
    payback = pays(coverage, pi, teacher, student, n, overhead)
    assert payback.spent_usd == pytest.approx(spent, rel=0.01)
    assert payback.teacher_only_usd == pytest.approx(200.0)
    assert payback.net_saving_usd == pytest.approx(200.0 - payback.spent_usd)


def test_known_figures() -> None:
    payback = pays(coverage=0.5, pi=0.1, teacher_usd=0.01, student_usd=0.0005, horizon=1000, overhead_usd=1.0)
    assert payback.saving_per_request_usd == pytest.approx(0.004)
    assert payback.net_saving_usd == pytest.approx(3.0)
    assert payback.pays_back_after_requests == 250


def test_a_student_that_costs_what_it_spares_never_pays_back() -> None:
    assert pays(0.5, 0.0, 0.01, 0.005, 1000, 0.0).pays_back_after_requests is None
    assert pays(0.0, 0.0, 0.01, 0.0, 1000, 0.0).pays_back_after_requests is None
    assert pays(1.0, 1.0, 0.01, 0.0, 1000, 0.0).net_saving_usd == 0.0, "audits of everything leave nothing to save"
    assert pays(0.5, 0.0, 0.01, 0.0, 1000, 0.0).pays_back_after_requests == 0


@given(SHARES, SHARES, SHARES, USD, USD, HORIZONS, USD)
def test_more_coverage_never_saves_less_and_more_audits_never_save_more(
    coverage, more, pi, teacher, student, horizon, overhead
) -> None:
    low, high = sorted((coverage, more))
    at = pays(low, pi, teacher, student, horizon, overhead).net_saving_usd
    assert pays(high, pi, teacher, student, horizon, overhead).net_saving_usd >= at
    rarely, often = sorted((pi, more))
    at = pays(coverage, rarely, teacher, student, horizon, overhead).net_saving_usd
    assert pays(coverage, often, teacher, student, horizon, overhead).net_saving_usd <= at


@given(SHARES, SHARES, USD, USD, HORIZONS, USD)
def test_the_saving_is_bounded_and_adds_up(coverage, pi, teacher, student, horizon, overhead) -> None:
    payback = pays(coverage, pi, teacher, student, horizon, overhead)
    assert payback.net_saving_usd <= payback.teacher_only_usd
    assert payback.spent_usd >= -1e-9 * payback.teacher_only_usd
    assert payback.net_saving_usd + payback.spent_usd == pytest.approx(payback.teacher_only_usd, abs=1e-6)


@given(SHARES, SHARES, st.floats(1e-4, 1.0), st.floats(0, 1e-3), st.floats(0.0, 100.0))
def test_it_pays_back_exactly_from_the_stated_request_on(coverage, pi, teacher, student, overhead) -> None:
    after = pays(coverage, pi, teacher, student, 0, overhead).pays_back_after_requests
    if after is None or after > 1e12:
        return
    tolerance = 1e-9 * (overhead + 1)
    assert pays(coverage, pi, teacher, student, after, overhead).net_saving_usd >= -tolerance
    if after > 0:
        assert pays(coverage, pi, teacher, student, after - 1, overhead).net_saving_usd < tolerance


@pytest.mark.parametrize(
    ("name", "value"),
    [("coverage", 1.1), ("pi", -0.1), ("teacher_usd", math.inf), ("student_usd", math.nan), ("overhead_usd", -1.0)],
)
def test_impossible_numbers_are_named(name, value) -> None:
    numbers = {"coverage": 0.5, "pi": 0.1, "teacher_usd": 1.0, "student_usd": 0.1, "horizon": 10, "overhead_usd": 0.0}
    with pytest.raises(ValueError, match=rf"{name} is .*: give a finite number, at least 0"):
        pays(**(numbers | {name: value}))


def test_prices() -> None:
    assert cpu_usd(3_600_000, 0.05) == pytest.approx(0.05)
    assert cpu_usd(0.0, 0.05) == 0.0
    assert str(Price(0.002)) == "0.002 USD per call (declared)"
    assert str(Price(0.01, "vendor's list, 2026-11")) == "0.01 USD per call (vendor's list, 2026-11)"
    with pytest.raises(ValueError, match="usd_per_call is -1"):
        Price(-1)
    with pytest.raises(ValueError, match="cpu_ms is nan"):
        cpu_usd(math.nan, 0.05)
