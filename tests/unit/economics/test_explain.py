"""The ledger in words: every amount and every decision has its sentence."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from services.observer.recording import decision_row, route_row
from stillhouse.economics.explain import told
from stillhouse.events import BudgetEvaluated, TrainingFailed
from stillhouse.store import EvaluationRow, LedgerRow
from tests.unit.trainer.tasks import drift, make_task, route, trained

T0 = datetime(2026, 1, 1, 0, 30, tzinfo=UTC)
KEY = "default/intents"


def entry(hour: int, **changes) -> dict:
    fields = {"kind": "request", "usd": 0.002, "teacher_usd": 0.002, "served_by": "teacher"} | changes
    time = T0 + timedelta(hours=hour)
    return asdict(LedgerRow(f"e{hour}", time, "default", "intents", cause_id=f"r{hour}", **fields))


def test_each_day_each_decision_and_each_change_is_told_in_order() -> None:
    book = {"valid_from": "2026-01-02T00:00:00Z", "source": "list", "usd_per_call": {KEY: 0.003}}
    task = make_task(prices={"entries": [book]}, budget={"usd_per_day": 5.0, "at_limit": "reject"})
    entries = [entry(1), entry(2, served_by="student", usd=0.0), entry(3, kind="training", usd=2.0, teacher_usd=0.0)]
    entries += [entry(n, served_by=None, usd=0.0, teacher_usd=0.0, reason="budget") for n in (30, 31)]
    budget = BudgetEvaluated(
        time=T0, task="intents", strategy="collecting", reason="too few examples", numbers={"examples": 12.0}
    )
    failed = TrainingFailed(time=T0 + timedelta(hours=4), task="intents", job_id="j", architecture="x", error="no disk")
    decisions = [asdict(decision_row(e)) for e in (budget, trained("s1", 90), drift("s1", 200), failed)]
    verdict = EvaluationRow("v", T0 + timedelta(hours=5), "default", "intents", "s1", "offline", "passed", "ok", 400)
    routes = [asdict(route_row(route(1, 100, live="s1")))]
    lines = told(KEY, entries, decisions, routes, [asdict(verdict)], task)
    assert [line.kind for line in lines] == [
        "budget", "training", "route", "alarm", "spending", "training", "verdict", "price", "limit", "spending",
    ]  # fmt: skip
    said = "\n".join(line.text for line in lines)
    assert "budget: collecting, too few examples [examples 12]" in said
    assert "2026-01-01: 2 requests answered, 50% of them by the student; spent 2.00 USD" in said
    assert "(training 2.00 USD, requests 0.002 USD); the teacher alone 0.004 USD, which is 2.00 USD more" in said
    assert "money ran out: 2 requests got the error `budget`, the last at 07:30:00 (at_limit = reject)" in said
    assert "from 2026-01-02 on, a call of the teacher costs 0.003 USD instead of 0.002 (list)" in said
    assert "route 1: live with s1, because r (by gate.passed)" in said
    assert "offline gate of s1: passed on 400 cases: ok" in said
    assert "alarm: s1 agreed on 80.0% (70.0% to 90.0%) of the last 10 audits, after 10" in said
    assert "a training of x failed: no disk" in said


def test_nothing_gives_nothing() -> None:
    assert told(KEY, [], [], [], [], make_task()) == []
