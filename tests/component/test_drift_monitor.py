"""The composed drift monitor behind an in-memory broker: audits and routes in, alarms and their end out, each once."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from faststream.kafka import TestKafkaBroker
from prometheus_client import REGISTRY

from services.drift_monitor.app import SOURCE, build_app
from services.drift_monitor.settings import DriftMonitorSettings
from services.observer.recording import audit_row, completed_example, route_row
from stillhouse.bus import publish
from stillhouse.events import Answer, AuditRequested, DriftCleared, DriftDetected, DriftSuspected, InferenceRequested
from stillhouse.store import Store
from stillhouse.telemetry.names import DRIFT_ALARMS, DRIFT_STATISTIC, DRIFT_SUSPICIONS
from tests.unit.drift_monitor.answers import answered, traffic
from tests.unit.drift_monitor.events import audit, live
from tests.unit.trainer.tasks import T0

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


@pytest.mark.parametrize(("promise", "alarms"), [("overall", 0), ("selective", 1)])
async def test_a_promise_about_what_is_served_is_tested_on_that_alone(service_environment, promise, alarms) -> None:
    file = service_environment / "tasks" / "intents.toml"
    file.write_text(f'{file.read_text()}\n[cascade]\npromise = "{promise}"\n')
    # One request in 24 is served and lost, one is served and kept: 4 % of all, half of what is served.
    audits = [audit(number, loss=number % 24 == 0, would_serve=number % 12 == 0) for number in range(720)]
    settings = DriftMonitorSettings()
    service = build_app(settings)
    said = heard(service)
    async with TestKafkaBroker(service.broker):
        await say(service, live(3, "s1"), *audits)
        found = [event for event in said if isinstance(event, DriftDetected)]
        assert len(found) == alarms
        redis = service.broker.context.resolve("redis")
        state = json.loads(await redis.get("stillhouse:drift:{default/intents}:s1"))
        served = [item for item in audits if item.would_serve]
        assert state["detector"]["n"] == (found[0].audits if found else len(audits))
        # What was lost in Redis is rebuilt from the store by the same count.
        store = Store(settings.home / "store")
        store.append_routes([route_row(live(3, "s1"))])
        store.append_audits([audit_row(item) for item in audits[:72]])
        await redis.flushall()
        await say(service, audits[0])
        rebuilt = json.loads(await redis.get("stillhouse:drift:{default/intents}:s1"))
        assert rebuilt["detector"]["n"] == (len([item for item in served if item in audits[:72]]) if alarms else 72)
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


def suspicions(service) -> list[DriftSuspected | AuditRequested | DriftCleared]:
    said: list[DriftSuspected | AuditRequested | DriftCleared] = []

    @service.broker.subscriber(DriftSuspected.TYPE, group_id="test")
    async def on_suspected(event: DriftSuspected) -> None:
        said.append(event)

    @service.broker.subscriber(AuditRequested.TYPE, group_id="test")
    async def on_requested(event: AuditRequested) -> None:
        said.append(event)

    @service.broker.subscriber(DriftCleared.TYPE, group_id="test")
    async def on_cleared(event: DriftCleared) -> None:
        said.append(event)

    return said


async def test_changed_inputs_raise_the_share_of_audits_and_audits_lower_it_again(service_environment) -> None:
    [path] = (service_environment / "tasks").glob("*.toml")
    path.write_text(path.read_text() + "\n[drift]\nwindow = 50\nclear_after = 20\nsuspected_pi = 0.4\n")
    service = build_app(DriftMonitorSettings())
    said = suspicions(service)
    labels = {"task": "default/intents", "kind": "inputs"}
    before = REGISTRY.get_sample_value(DRIFT_SUSPICIONS, labels) or 0.0
    async with TestKafkaBroker(service.broker):
        watching = service.broker.context.resolve("watching")
        usual = traffic(120, seed=1)
        await say(service, live(3, "s1"))
        await watching.completed(usual)
        await watching.completed(usual)  # delivered again
        await watching.completed(traffic(60, seed=2, student="s9", new=1.0))  # another student's
        assert said == []
        changed = traffic(60, seed=3, new=1.0, start=200)
        await watching.completed(changed)
        await watching.completed(changed)
        suspected, asked = said
        assert isinstance(suspected, DriftSuspected)
        assert isinstance(asked, AuditRequested)
        assert (suspected.kind, suspected.student_id, suspected.audit_pi) == ("inputs", "s1", 0.4)
        assert suspected.statistic <= suspected.alarm_level
        assert (asked.student_id, asked.pi) == ("s1", 0.4)
        assert REGISTRY.get_sample_value(DRIFT_SUSPICIONS, labels) == before + 1
        await say(service, live(4, "s1", audit_pi=0.4))
        good = [audit(number) for number in range(20)]
        await say(service, *good[:19], *good[:19])
        assert len(said) == 2
        await say(service, good[19])
        _, _, over, back = said
        assert isinstance(over, DriftCleared)
        assert isinstance(back, AuditRequested)
        assert (over.suspicion, over.student_id, over.previous_student_id) == ("inputs", "s1", "s1")
        assert back.pi is None
        # Nothing of a student that is out stays behind.
        await say(service, live(5, None, changed_by="drift.detected", retired=["s1"]))
        redis = service.broker.context.resolve("redis")
        assert await redis.keys("stillhouse:drift:*") == [b"stillhouse:drift:{default/intents}"]
    await stop(service)


async def test_a_monitor_that_died_after_counting_says_what_it_had_not_said(service_environment) -> None:
    [path] = (service_environment / "tasks").glob("*.toml")
    path.write_text(path.read_text() + "\n[drift]\nwindow = 50\n")
    service = build_app(DriftMonitorSettings())
    said = suspicions(service)
    async with TestKafkaBroker(service.broker):
        watching = service.broker.context.resolve("watching")
        looking = watching._looking
        publish, looking._publish = looking._publish, None
        await say(service, live(3, "s1"))
        await watching.completed(traffic(50, seed=1))
        with pytest.raises(TypeError):  # it is away before it can say anything
            await watching.completed(traffic(50, seed=3, new=1.0, start=100))
        assert said == []
        looking._publish = publish
        await watching.completed(traffic(1, seed=4, start=300))
        assert [type(event) for event in said] == [DriftSuspected, AuditRequested]
        state = await looking._states.add(watching._tasks["default/intents"], await standing(watching), [], None)
        assert (state.windows, state.raised, state.asked_pi) == (1, 1, 0.5)
        # Redis is lost: the route tells that audits are still raised, and they are until audits clear it.
        await service.broker.context.resolve("redis").flushall()
        await say(service, live(4, "s1", audit_pi=0.5))
        await watching.completed(traffic(1, seed=5, start=400))
        state = await looking._states.add(watching._tasks["default/intents"], await standing(watching), [], None)
        assert (state.asked_pi, [suspicion.kind for suspicion in state.suspicions]) == (0.5, ["inputs"])
    await stop(service)


async def test_another_teacher_is_audited_on_every_request(service_environment) -> None:
    service = build_app(DriftMonitorSettings())
    said = suspicions(service)
    async with TestKafkaBroker(service.broker):
        other = [audit(number, teacher=audit(0).teacher.model_copy(update={"model": "t2"})) for number in range(5, 9)]
        await say(service, live(3, "s1"), *[audit(number) for number in range(5)], *other)
        suspected, asked = said
        assert isinstance(suspected, DriftSuspected)
        assert isinstance(asked, AuditRequested)
        assert (suspected.kind, suspected.audit_pi, asked.pi) == ("teacher_version", 1.0, 1.0)
    await stop(service)


async def test_the_teacher_is_asked_again_what_it_answered_before_the_student_was_live(service_environment) -> None:
    settings = DriftMonitorSettings()
    service = build_app(settings)
    said, asked = suspicions(service), list[InferenceRequested]()

    @service.broker.subscriber(InferenceRequested.TYPE, group_id="test")
    async def on_requested(event: InferenceRequested) -> None:
        asked.append(event)

    before = [answered(n, "a", f"text {n}", reason="no_student", stage="teacher", student=None) for n in range(5)]
    teacher = Answer(output="a", confidence=1.0, model="t1", latency_ms=1.0)
    rows = [completed_example(event.model_copy(update={"teacher": teacher, "time": T0})) for event in before]
    Store(settings.home / "store").append_examples([row for row in rows if row is not None])
    async with TestKafkaBroker(service.broker):
        watching = service.broker.context.resolve("watching")
        [task] = watching._tasks.values()
        hour = timedelta(days=1) / 20
        await watching.ask(task, T0)
        assert asked == []  # nobody is live
        await say(service, live(3, "s1"))
        await watching.ask(task, T0)
        for turn in (1, 1, 2, 2, 3, 4, 5, 6):
            await watching.ask(task, T0 + turn * hour)
        assert len(asked) == 6
        assert {request.purpose for request in asked} == {"gate"}
        assert {request.input for request in asked} <= {event.input for event in before}
        # A clock that jumps asks no more than one, wherever it lands.
        await watching.ask(task, T0 + timedelta(days=900))
        await watching.ask(task, T0 + 7 * hour)
        assert len(asked) == 8
        replies = [
            answered(900 + n, "a", request.input, request_id=request.id, purpose="gate", student=None).model_copy(
                update={"teacher": teacher.model_copy(update={"output": "b"}), "student": None}
            )
            for n, request in enumerate(asked)
        ]
        await watching.completed(replies)
        await watching.completed(replies)
        state = await watching._looking._states.change(task, await standing(watching), lambda state: state)
        assert state.rises["teacher"].detector["exceeded"] == 8
        assert [type(event) for event in said] == [DriftSuspected, AuditRequested]
        assert said[0].kind == "teacher"
    await stop(service)


async def standing(watching):
    return await watching._states.standing("default/intents")
