"""Batches to the store, once, whatever comes again or breaks in between."""

from __future__ import annotations

from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from services.observer.recorder import FirstTimes, Recorder
from stillhouse.bus.metering import Meter
from stillhouse.events import CostIncurred, ExampleRecorded, RouteChanged
from stillhouse.telemetry.names import DUPLICATES_SUPPRESSED, EXAMPLES_RECORDED, SPENT_USD
from tests.unit.observer.events import T0, audited, completed
from tests.unit.observer.fakes import FakeLog, FakeStore
from tests.unit.trainer.tasks import make_task


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def parts():
    store, log, tasks = FakeStore(), FakeLog(), {"default/intents": make_task()}
    return store, log, Recorder(store, log, tasks, Meter("capture", tasks))


async def test_a_batch_is_written_and_its_examples_are_said_in_their_requests_traces(parts) -> None:
    store, log, recorder = parts
    await recorder.completed([completed(1), completed(2), completed(3, teacher=None)], {"completed-1": "trace-1"})
    assert len(store.rows("examples")) == 2
    assert len(store.rows("ledger")) == 3
    assert [(event.request_id, trace) for event, trace in log.said] == [("request-1", "trace-1"), ("request-2", None)]
    assert all(isinstance(event, ExampleRecorded) for event, _ in log.said)


async def test_what_comes_again_changes_nothing_and_is_counted(parts) -> None:
    store, log, recorder = parts
    before = counted(DUPLICATES_SUPPRESSED, service="observer")
    recorded = counted(EXAMPLES_RECORDED, task="default/intents", sample="full")
    await recorder.completed([completed(1), completed(1)], {})
    await recorder.completed([completed(1), completed(2)], {})
    assert len(store.rows("ledger")) == len(store.rows("examples")) == 2
    assert len(set(log.ids)) == 2
    assert counted(DUPLICATES_SUPPRESSED, service="observer") == before + 2
    assert counted(EXAMPLES_RECORDED, task="default/intents", sample="full") == recorded + 2


async def test_an_example_that_was_written_but_not_said_is_said_when_the_batch_comes_again(parts) -> None:
    store, log, recorder = parts
    log.away = True
    with pytest.raises(ConnectionError):
        await recorder.completed([completed(1)], {})
    log.away = False
    await recorder.completed([completed(1)], {})
    assert len(store.rows("examples")) == len(log.said) == 1


async def test_a_store_that_breaks_between_tables_is_completed_by_the_next_try(parts) -> None:
    store, log, recorder = parts
    store.broken = "audits"
    with pytest.raises(OSError, match="no space"):
        await recorder.audited([audited(1)], {})
    assert not log.said
    store.broken = None
    await recorder.audited([audited(1)], {})
    assert [len(store.rows(table)) for table in ("examples", "ledger", "audits")] == [1, 1, 1]
    assert len(log.said) == 1


async def test_an_answer_that_was_given_again_after_a_crash_keeps_its_first_time(parts) -> None:
    store, _, recorder = parts
    later = T0 + timedelta(seconds=9)
    await recorder.completed([completed(1)], {})
    await recorder.completed([completed(1, time=later)], {})
    await recorder.audited([audited(2)], {})
    await recorder.audited([audited(2, time=later), audited(2, time=later, id="for-s2", student_id="s2")], {})
    assert len(store.rows("examples")) == 2
    assert len(store.rows("audits")) == 2
    assert len(store.rows("ledger")) == 3


async def test_costs_and_routes_are_kept_once(parts) -> None:
    store, log, recorder = parts
    cost = CostIncurred(id="c", task="intents", cause_id="job", kind="training", usd=0.5)
    route = RouteChanged(id="r", task="intents", version=1, stage="teacher", reason="r", changed_by="x", cause_id="c")
    for _ in range(2):
        await recorder.costs([cost])
        await recorder.routes([route])
    assert len(store.rows("ledger")) == len(store.rows("routes")) == 1
    assert not log.said


async def test_tasks_that_nobody_declared_are_recorded_and_make_no_label(parts) -> None:
    store, _, recorder = parts
    before = counted(EXAMPLES_RECORDED, task="unknown", sample="full")
    await recorder.completed([completed(1, task="somebody-s")], {})
    assert len(store.rows("examples")) == 1
    assert counted(EXAMPLES_RECORDED, task="unknown", sample="full") == before + 1


def test_first_times_are_bounded() -> None:
    times = FirstTimes(size=2)
    later = T0 + timedelta(seconds=9)
    for number in range(3):
        times.restore(completed(number), str(number))
    assert times.restore(completed(2, time=later), "2").time == T0
    assert times.restore(completed(0, time=later), "0").time == later


async def test_what_was_spent_is_counted_once(parts) -> None:
    store, _, recorder = parts
    labels = {"task": "default/intents", "kind": "request"}
    before = counted(SPENT_USD, **labels)
    for _ in range(2):
        await recorder.completed([completed(1), completed(2), completed(2)], {})
    spent = sum(row.usd for row in store.rows("ledger"))
    assert spent > 0
    assert counted(SPENT_USD, **labels) == pytest.approx(before + spent)
