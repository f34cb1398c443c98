"""The budget controller on a real store and a real Valkey: what it measures, and what a limit does to a training."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.trainer.control import BudgetControl
from services.trainer.policy import Counts, decide
from services.trainer.state import TaskState
from stillhouse.bus.spending import Accounts, ledger_of
from stillhouse.events import CostIncurred
from stillhouse.store import LedgerRow, Store
from tests.integration.economics.conftest import NOON, Clock, nothing_to_wait_for
from tests.unit.trainer.tasks import make_task

ENOUGH = Counts(1000, 1000)


def filled(tmp_path) -> Store:
    store = Store(tmp_path / "store")
    rows = []
    for day in range(5):
        for n in range(40):
            time = NOON - timedelta(days=4 - day, hours=6) + timedelta(minutes=n)
            entry = LedgerRow(f"{day}-{n}", time, "default", "intents", "request", "r", 0.01, 0.01, served_by="teacher")
            rows.append(entry)
    store.append_ledger(rows)
    return store


def test_a_training_waits_for_the_next_day_and_costs_count(run, tmp_path) -> None:
    store = filled(tmp_path)
    task = make_task(budget={"min_examples": 100, "usd_per_day": 1.0, "kept_for_audits": 0.0})

    async def work(redis):
        clock = Clock()
        control = BudgetControl(store, Accounts(redis, ledger_of(store), nothing_to_wait_for, clock), clock)
        decision = decide(task, TaskState(), ENOUGH)
        before = await control.weigh(task, decision, None)
        cost = CostIncurred(id="c", task="intents", cause_id="j", kind="training", usd=0.6, time=NOON)
        for _ in range(2):
            await control.charge(task, cost)
        after = await control.weigh(task, decision, None)
        clock.forward(days=1)
        return before, after, await control.weigh(task, decision, None)

    before, after, tomorrow = run(work)
    assert before.plan is not None
    assert before.numbers["spent_usd_day"] == 0.4
    assert before.numbers["requests_per_day"] == 40
    assert before.numbers["teacher_usd_per_1000"] == pytest.approx(10.0)
    assert after.plan is None
    assert after.numbers["spent_usd_day"] == 1.0
    assert after.reason.startswith(
        "the limit of 2026-11-23 is reached (1 USD a day): the student answers what it may, the rest is refused; "
        "no training begins"
    )
    assert tomorrow.plan is not None


def test_a_target_that_holds_without_a_student_trains_none(run, tmp_path) -> None:
    store = filled(tmp_path)
    task = make_task(budget={"min_examples": 100, "usd_per_1000": 12.0})

    async def work(redis):
        clock = Clock()
        control = BudgetControl(store, Accounts(redis, ledger_of(store), nothing_to_wait_for, clock), clock)
        asked = decide(task, TaskState(), ENOUGH)
        return await control.weigh(task, asked, None), await control.weigh(task, asked, "s1")

    without, live = run(work)
    assert (without.strategy, without.plan) == ("no_change", None)
    assert without.reason == "the teacher alone keeps the target of 12 USD per 1,000 requests"
    assert live.reason.endswith("it keeps the target of 12 USD per 1,000 requests")
