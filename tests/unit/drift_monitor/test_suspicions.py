"""How much is audited under suspicion and with few requests, and that everything said twice has one id."""

from __future__ import annotations

import pytest

from services.drift_monitor.suspicions import (
    Suspicion,
    audits_wanted,
    dismissed,
    over,
    suspected,
    wanted_pi,
)
from stillhouse.events import SuspicionKind
from tests.unit.trainer.tasks import make_task

TASK = make_task(audit={"pi": 0.1, "min_per_day": 20}, drift={"suspected_pi": 0.4, "clear_after": 50})


def of(kind: SuspicionKind, since: int = 0) -> Suspicion:
    return Suspicion(kind=kind, number=0, statistic=1, alarm_level=1, n=10, note="n", since=since)


@pytest.mark.parametrize(
    ("kinds", "a_day", "share"),
    [
        ([], None, None),
        ([], 5000.0, None),
        ([], 200.0, None),
        ([], 199.0, 0.2),
        ([], 26.0, 0.8),
        ([], 3.0, 1.0),
        ([], 0.0, 1.0),
        (["inputs"], 5000.0, 0.4),
        (["inputs"], 26.0, 0.8),
        (["inputs", "teacher_version"], None, 1.0),
        (["latency", "cost"], None, None),
    ],
)
def test_the_largest_wish_counts(kinds, a_day, share) -> None:
    assert wanted_pi(TASK, tuple(of(kind) for kind in kinds), a_day) == share


def test_a_task_that_audits_more_than_asked_is_not_audited_less() -> None:
    assert wanted_pi(make_task(audit={"pi": 0.9}), (of("inputs"),), None) is None


def test_a_suspicion_is_over_after_so_many_audits() -> None:
    assert not over(TASK, of("inputs", since=100), 149)
    assert over(TASK, of("inputs", since=100), 150)
    assert not over(TASK, of("latency"), 1000)


def test_what_is_said_twice_has_one_id_and_what_differs_has_two() -> None:
    assert suspected(TASK, "s1", of("inputs")).id == suspected(TASK, "s1", of("inputs")).id
    assert dismissed(TASK, "s1", of("inputs")).id != suspected(TASK, "s1", of("inputs")).id
    assert dismissed(TASK, "s1", of("inputs")).suspicion == "inputs"
    first, second = (audits_wanted(TASK, "s1", pi, (of("inputs"),), 0) for pi in (0.4, 1.0))
    assert first.id != second.id
    assert first.reason == "inputs suspected to have changed: audits at 40% of all requests"
    assert audits_wanted(TASK, "s1", None, (), 1).reason == "audits are back at 10% of all requests"
    assert "few requests" in audits_wanted(TASK, "s1", 1.0, (), 1).reason
