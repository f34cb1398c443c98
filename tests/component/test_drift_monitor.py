"""The composed drift monitor behind an in-memory broker: audits and routes in, alarms and their end out, each once."""

from __future__ import annotations

from datetime import timedelta

from faststream.kafka import TestKafkaBroker
from prometheus_client import REGISTRY

from services.drift_monitor.app import SOURCE, build_app
from services.drift_monitor.settings import DriftMonitorSettings
from services.observer.recording import audit_row, route_row
from stillhouse.bus import publish
from stillhouse.events import DriftCleared, DriftDetected
from stillhouse.store import Store
from stillhouse.telemetry.names import DRIFT_ALARMS, DRIFT_STATISTIC
from tests.unit.drift_monitor.events import audit, live

# Two of three audits lost: an alarm within some twenty.
BROKEN = [audit(number, loss=number % 3 > 0) for number in range(40)]


def heard(service) -> list[DriftDetected | DriftCleared]:
    said: list[DriftDetected | DriftCleared] = []

    @service.broker.subscriber(DriftDetected.TYPE, group_id="test")
    async def on_detected(event: DriftDetected) -> None:
        said.append(event)

    @service.broker.subscriber(DriftCleared.TYPE, group_id="test")
    async def on_cleared(event: DriftCleared) -> None:
        said.append(event)

    return said


async def say(service, *events) -> None:
    for event in events:
        await publish(service.broker, event, source=SOURCE)


async def stop(service) -> None:
    for step in service.on_stop:
        await step()


async def test_one_alarm_for_a_broken_promise_and_one_end_of_it(service_environment) -> None:
    service = build_app(DriftMonitorSettings())
    said = heard(service)
    before = REGISTRY.get_sample_value(DRIFT_ALARMS, {"task": "default/intents"}) or 0.0
    async with TestKafkaBroker(service.broker):
        assert all([await check() for check in service.ready.values()])
        await say(service, live(3, "s1"), *BROKEN, *BROKEN)
        [alarm] = said
        assert isinstance(alarm, DriftDetected)
        assert (alarm.student_id, alarm.runbook) == ("s1", "DriftDetected")
        assert alarm.statistic >= alarm.alarm_level
        assert alarm.audits < 40
        assert alarm.upper < 0.95
        assert set(alarm.example_ids) == {item.request_id for item in BROKEN[: alarm.audits] if item.loss}
        back = live(4, None, changed_by="drift.detected", retired=["s1"])
        await say(service, back, *BROKEN, live(5, None, candidate="s2"))
        assert len(said) == 1
        await say(service, live(6, "s2"), live(6, "s2"), live(4, None))
        assert [type(event) for event in said] == [DriftDetected, DriftCleared]
        assert isinstance(said[1], DriftCleared)
        assert (said[1].student_id, said[1].previous_student_id) == ("s2", "s1")
        # The successor's test begins anew, and its predecessor's late audits are nobody's.
        await say(service, *(audit(number, student_id="s2", route_version=6) for number in range(5)), *BROKEN)
        assert len(said) == 2
        assert REGISTRY.get_sample_value(DRIFT_STATISTIC, {"task": "default/intents"}) < 2
        assert REGISTRY.get_sample_value(DRIFT_ALARMS, {"task": "default/intents"}) == before + 1
    await stop(service)


async def test_only_live_audits_of_declared_tasks_count(service_environment) -> None:
    service = build_app(DriftMonitorSettings())
    said = heard(service)
    async with TestKafkaBroker(service.broker):
        await say(service, live(3, "s1"))
        await say(service, *(item.model_copy(update={"stage": "canary"}) for item in BROKEN))
        await say(service, *(item.model_copy(update={"task": "nobody-s"}) for item in BROKEN))
        await say(service, live(4, None).model_copy(update={"task": "nobody-s"}))
        redis = service.broker.context.resolve("redis")
        assert await redis.keys("stillhouse:drift:*") == [b"stillhouse:drift:{default/intents}"]
    assert not said
    await stop(service)


async def test_audits_that_overtake_their_route_count(service_environment) -> None:
    service = build_app(DriftMonitorSettings())
    said = heard(service)
    async with TestKafkaBroker(service.broker):
        await say(service, *BROKEN[:10], live(3, "s1"), *BROKEN[10:])
    assert [event.audits for event in said if isinstance(event, DriftDetected)] == [said[0].audits]
    assert said[0].audits < 40
    await stop(service)


async def test_what_redis_lost_is_rebuilt_from_the_store(service_environment) -> None:
    settings = DriftMonitorSettings()
    service = build_app(settings)
    said = heard(service)
    store = Store(settings.home / "store")
    store.append_routes([route_row(live(3, "s1"))])
    good = [audit(-number) for number in range(1, 31)]
    store.append_audits([audit_row(item) for item in [*good, *BROKEN[:5]]])
    async with TestKafkaBroker(service.broker):
        # All of the stored ones come again.
        await say(service, *good, *BROKEN)
        [alarm] = said
        assert isinstance(alarm, DriftDetected)
        assert alarm.audits > 35
        redis = service.broker.context.resolve("redis")
        await redis.flushall()
        drifted = live(4, None, changed_by="drift.detected", retired=["s1"])
        store.append_routes([route_row(drifted)])
        await say(service, *BROKEN, live(5, "s2"))
    assert [type(event) for event in said] == [DriftDetected, DriftCleared]
    await stop(service)


async def test_ids_are_forgotten_in_the_order_of_time_and_still_count_once(service_environment) -> None:
    settings = DriftMonitorSettings()
    service = build_app(settings)
    async with TestKafkaBroker(service.broker):
        watching = service.broker.context.resolve("watching")
        states = watching._states
        states._remembered = 10
        [task] = watching._tasks.values()
        fine = [audit(number) for number in range(50)]
        for start in range(0, 50, 7):
            await states.add(task, "s1", fine[start : start + 7])
        assert (await states.add(task, "s1", fine)).test.n == 50
        late = audit(60, time=fine[-1].time + timedelta(seconds=1))
        assert (await states.add(task, "s1", [late, late])).test.n == 51
        assert await service.broker.context.resolve("redis").zcard("stillhouse:drift:{default/intents}:s1:seen") == 10
    await stop(service)
