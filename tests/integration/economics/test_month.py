"""A simulated month: no limit is exceeded, savings are net of everything, and every decision is explained."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest
import structlog

from stillhouse.events import BudgetEvaluated, DriftDetected, GatePassed, RouteChanged, StudentTrained
from tests.integration.economics.month import (
    DAYS,
    LIMIT_DAY,
    LIMIT_MONTH,
    NEW_PRICE,
    TASK,
    Month,
    simulate,
)

A_DAY = 240


@pytest.fixture(scope="module")
def month(server, tmp_path_factory) -> Month:
    from stillhouse.bus.redis import connect_redis
    from stillhouse.settings import Redis as Settings

    url, on_loop = server

    async def work() -> Month:
        redis = connect_redis(Settings(url=url))
        try:
            await redis.flushall()
            return await simulate(redis, tmp_path_factory.mktemp("month"))
        finally:
            await redis.aclose()

    with structlog.testing.capture_logs():
        return on_loop(work())


def test_no_day_and_no_month_is_overspent(month) -> None:
    """By the simulation's own count of calls. Overheads count too; one at the end of a day cannot be refused."""
    kept = month.kept
    once = 0.30 + 0.05
    for day in kept.called_usd:
        assert kept.called_usd[day] <= LIMIT_DAY + 1e-9, day
        assert kept.called_usd[day] + kept.charged_usd[day] <= LIMIT_DAY + once, day
    assert sum(kept.called_usd.values()) + sum(kept.charged_usd.values()) <= LIMIT_MONTH + 1e-9
    # It was needed: without limits the teacher would have been paid for everything after the drift.
    assert kept.refused > 100
    assert kept.answered + kept.refused == DAYS * A_DAY


def test_the_ledger_is_what_happened_and_savings_are_net_of_all_of_it(month) -> None:
    kept, savings = month.kept, month.savings
    assert (savings.requests, savings.failed) == (kept.answered, kept.refused)
    assert savings.served_by["student"] == kept.by_student
    students_usd = 1e-6 * (DAYS * A_DAY)  # at most one call of a student for each request
    called, charged = sum(kept.called_usd.values()), sum(kept.charged_usd.values())
    assert called + charged <= savings.spent_usd <= called + charged + students_usd
    assert savings.net_saving_usd == pytest.approx(kept.teacher_alone_usd - savings.spent_usd)
    overheads = {kind for kind, usd in savings.spent_by_kind.items() if usd > 0} - {"request"}
    assert overheads == {"audit", "shadow", "training", "gate", "storage"}
    assert savings.net_saving_usd > 0


def test_the_interval_holds_what_the_teacher_alone_would_have_cost(month) -> None:
    """Over a change of price, which the audits of their days carry."""
    found = month.savings.sampled
    assert found is not None
    assert found.lower <= month.kept.teacher_alone_usd <= found.upper
    assert found.upper - found.lower < 0.05 * found.estimate


def test_the_loop_went_round_twice(month) -> None:
    kinds = defaultdict(int)
    for event in month.events:
        kinds[type(event)] += 1
    assert kinds[DriftDetected] == 1
    assert kinds[StudentTrained] == 2
    assert kinds[GatePassed] == 6
    strategies = [event.strategy for event in month.events if isinstance(event, BudgetEvaluated)]
    assert [s for i, s in enumerate(strategies) if i == 0 or s != strategies[i - 1]] == [
        "collecting",
        "distilled",
        "fallback_teacher",
        "distilled",
    ]


def test_every_decision_and_every_dollar_is_explained(month) -> None:
    said = defaultdict(list)
    for line in month.lines:
        said[line.kind].append(line.text)
    events = month.events
    assert len(said["budget"]) == sum(isinstance(event, BudgetEvaluated) for event in events)
    assert len(said["route"]) == sum(isinstance(event, RouteChanged) for event in events)
    assert len(said["verdict"]) == sum(isinstance(event, GatePassed) for event in events)
    assert len(said["alarm"]) == 1
    assert len(said["training"]) == 2
    assert said["price"] == [
        f"prices: from 2026-11-10 on, a call of the teacher costs {NEW_PRICE:g} USD instead of 0.01 "
        "(the vendor's letter)"
    ]
    assert len(said["spending"]) == DAYS
    spent = sum(float(re.search(r"spent ([\d.e-]+) USD", text)[1]) for text in said["spending"])
    assert spent == pytest.approx(month.savings.spent_usd, abs=0.005 * DAYS)
    refused = [int(re.search(r"([\d,]+) requests got", text)[1].replace(",", "")) for text in said["limit"]]
    assert sum(refused) == month.kept.refused
    assert any("the limit of 2026-11 is reached (46 USD a month)" in text for text in said["budget"])
    assert any("break even days" in text for text in said["budget"])


def test_the_student_kept_its_promise_as_long_as_it_was_not_voided(month) -> None:
    # 2 % of what it serves while it holds; the alarm comes within days of the drift.
    assert month.kept.wrong / month.kept.answered < TASK.gate.epsilon
