"""The composed validator behind an in-memory broker: audits in, verdicts out, each once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from faststream.kafka import TestKafkaBroker
from prometheus_client import REGISTRY

from services.validator.app import SOURCE, build_app
from services.validator.gates import Waiting
from services.validator.settings import ValidatorSettings
from stillhouse.bus import publish
from stillhouse.bus.jobs import JobQueue, write_json
from stillhouse.events import CostIncurred, GateFailed, GatePassed, ReviewRequested, ReviewResolved
from stillhouse.review.answers import Opinion, add_opinions, folder_of_student
from stillhouse.store import ExampleRow, Store
from stillhouse.telemetry.metrics import metrics
from stillhouse.telemetry.names import GATE_OPEN_SINCE
from tests.unit.trainer.tasks import route, trained
from tests.unit.validator.audits import SHA, audit


async def heard(service) -> list[GatePassed | GateFailed]:
    said: list[GatePassed | GateFailed] = []

    @service.broker.subscriber(GatePassed.TYPE, group_id="test")
    async def on_passed(event: GatePassed) -> None:
        said.append(event)

    @service.broker.subscriber(GateFailed.TYPE, group_id="test")
    async def on_failed(event: GateFailed) -> None:
        said.append(event)

    return said


def gated(folder, student) -> None:
    """What the offline gate leaves behind when it lets a student through."""
    event = GatePassed(
        task="intents",
        student_id=student.student_id,
        stage="offline",
        reason="r",
        n=300,
        alpha=0.025,
        threshold=0.5,
        coverage=0.8,
        student=student,
    )
    path = folder / "home" / "evaluations" / student.student_id / "offline.json"
    path.parent.mkdir(parents=True)
    write_json(path, event.model_dump(mode="json"))


async def test_a_trained_student_is_queued_for_its_gate_once(service_environment) -> None:
    service = build_app(ValidatorSettings())
    async with TestKafkaBroker(service.broker):
        event = trained("s1", 1)
        await publish(service.broker, event, source=SOURCE)
        await publish(service.broker, event, source=SOURCE)
        queue: JobQueue = service.broker.context.resolve("gates").queue
        assert await queue.pending() == 1
        job = await queue.claim("w", 30)
        assert job is not None
        assert job.payload["round"] == 0
        assert all([await check() for check in service.ready.values()])
    for stop in service.on_stop:
        await stop()
    offline = {"task": "default/intents", "stage": "offline"}
    assert REGISTRY.get_sample_value(GATE_OPEN_SINCE, offline) == event.time.timestamp()

    # The next validator knows it from the gate's folder, until the gate is decided.
    metrics().set_gate("default/intents", "offline", None)
    service = build_app(ValidatorSettings())
    for start in service.on_start:
        await start()
    assert REGISTRY.get_sample_value(GATE_OPEN_SINCE, offline) == event.time.timestamp()
    async with TestKafkaBroker(service.broker):
        gates = service.broker.context.resolve("gates")
        rounds = service_environment / "home" / "jobs" / job.payload["gate"] / "rounds" / "0"
        rounds.mkdir(parents=True)
        write_json(rounds / "result.json", {"broken": "it does not load", "cpu_seconds": 0.0})
        await gates.run(job)
    assert REGISTRY.get_sample_value(GATE_OPEN_SINCE, offline) is None
    for stop in service.on_stop:
        await stop()


async def test_a_look_whose_end_the_queue_missed_does_not_turn_the_gate_back(service_environment) -> None:
    service = build_app(ValidatorSettings())
    async with TestKafkaBroker(service.broker):
        await publish(service.broker, trained("s1", 1), source=SOURCE)
        gates = service.broker.context.resolve("gates")
        first = await gates.queue.claim("w", 30)
        folder = service_environment / "home" / "jobs" / first.payload["gate"] / "rounds" / "0"
        folder.mkdir(parents=True)
        write_json(folder / "result.json", {"cpu_seconds": 0.0})
        write_json(folder / "outcome.json", {"final": False, "counted": 50, "wanted": 100})
        # The next look is over, and waits for more cases, when the first one is claimed again.
        waits = Waiting(trained("s1", 1), 1, 150, 100)
        gates._waiting[first.payload["gate"]] = waits
        await gates.run(first)
        assert gates._waiting == {first.payload["gate"]: waits}
        assert await gates.queue.state(first.job_id) == "done"
    for stop in service.on_stop:
        await stop()


async def test_a_gate_that_waits_looks_again_when_people_said_something(service_environment) -> None:
    service = build_app(ValidatorSettings())
    async with TestKafkaBroker(service.broker):
        await publish(service.broker, trained("s1", 1), source=SOURCE)
        gates = service.broker.context.resolve("gates")
        first = await gates.queue.claim("w", 30)
        await gates.queue.complete(first)
        gates._waiting[first.payload["gate"]] = Waiting(trained("s1", 1), 0, 0, 1000, told=0)
        await gates.check()
        assert await gates.queue.pending() == 0
        folder = folder_of_student(service_environment / "home", "s1")
        add_opinions(folder, [Opinion("e1", "teacher", "tie", "me")])
        await gates.check()
        again = await gates.queue.claim("w", 30)
        assert again.payload == {"gate": first.payload["gate"], "round": 1}
        assert gates._waiting == {}
    for stop in service.on_stop:
        await stop()


async def test_a_canary_passes_once_and_carries_student_and_threshold(service_environment) -> None:
    service = build_app(ValidatorSettings())
    said = await heard(service)
    student = trained("s1", 1)
    gated(service_environment, student)
    async with TestKafkaBroker(service.broker):
        for number in [*range(130), *range(130)]:
            await publish(service.broker, audit(number), source=SOURCE)
    [passed] = said
    assert isinstance(passed, GatePassed)
    assert (passed.stage, passed.threshold, passed.coverage, passed.alpha) == ("canary", 0.5, 1.0, 0.025)
    assert passed.student == student
    assert 100 < passed.n < 130
    for stop in service.on_stop:
        await stop()


async def test_a_losing_canary_and_a_foreign_shadow_artefact_fail(service_environment) -> None:
    service = build_app(ValidatorSettings())
    said = await heard(service)
    gated(service_environment, trained("s1", 1))
    async with TestKafkaBroker(service.broker):
        for number in range(40):
            await publish(service.broker, audit(number, loss=number % 2 == 0), source=SOURCE)
        await publish(service.broker, audit(100, "shadow", artefact_sha256="b" * 64), source=SOURCE)
    assert [(event.stage, event.verdict) for event in said] == [("canary", "failed"), ("shadow", "failed")]
    for stop in service.on_stop:
        await stop()


async def test_a_full_shadow_queues_its_replay_and_a_retired_student_is_forgotten(service_environment) -> None:
    service = build_app(ValidatorSettings())
    student = trained("s1", 1)
    student = student.model_copy(update={"artefact": student.artefact.model_copy(update={"sha256": SHA})})
    gated(service_environment, student)
    async with TestKafkaBroker(service.broker):
        for number in range(25):
            await publish(service.broker, audit(number, "shadow"), source=SOURCE)
        gates = service.broker.context.resolve("gates")
        job = await gates.queue.claim("w", 30)
        assert job is not None
        assert await gates.queue.pending() == 1
        redis = service.broker.context.resolve("redis")
        assert await redis.keys("stillhouse:stage:*")
        await publish(service.broker, route(1, 2, candidate="s1"), source=SOURCE)
        await publish(service.broker, route(2, 3, retired=["s1"]), source=SOURCE)
        assert not await redis.keys("stillhouse:stage:*")
    for stop in service.on_stop:
        await stop()


def recorded(number: int, **changes) -> ExampleRow:
    """An answer of a minute ago."""
    fields = {
        "example_id": f"e{number}",
        "time": datetime.now(UTC) - timedelta(minutes=1),
        "tenant": "default",
        "task": "intents",
        "request_id": f"r{number}",
        "input": f"text {number}",
        "input_sha256": f"{number:064x}",
        "output": "a",
        "distribution": "",
        "confidence": 0.2,
        "sample": "escalation",
        "provenance": "teacher",
        "teacher_version": "t",
    }
    return ExampleRow(**(fields | changes))


async def test_unsure_answers_wait_for_people_and_are_said_once_also_by_the_next_validator(service_environment) -> None:
    store = Store(service_environment / "home" / "store")
    store.append_examples([recorded(number) for number in range(40)])
    said: list[ReviewRequested] = []
    for _ in range(2):  # the second is a new process, which cannot know whether its predecessor said them
        service = build_app(ValidatorSettings())

        @service.broker.subscriber(ReviewRequested.TYPE, group_id="test")
        async def hear(event: ReviewRequested) -> None:
            said.append(event)

        reviewing, gates = service.broker.context.resolve("reviewing"), service.broker.context.resolve("gates")
        async with TestKafkaBroker(service.broker):
            assert await reviewing.look(gates._tasks["default/intents"]) == 10
            assert await reviewing.look(gates._tasks["default/intents"]) == 0
        for stop in service.on_stop:
            await stop()
    cases = store.cases("default/intents").to_pylist()
    assert len(cases) == len({event.id for event in said}) == 10
    assert len(said) == 20
    assert {row["reason"] for row in cases} == {"low_confidence"}


async def test_a_case_that_could_not_be_said_is_said_at_the_next_look(service_environment) -> None:
    store = Store(service_environment / "home" / "store")
    store.append_examples([recorded(1)])
    service = build_app(ValidatorSettings())
    reviewing = service.broker.context.resolve("reviewing")
    [task] = service.broker.context.resolve("gates")._tasks.values()
    real = reviewing._publish

    async def away(event) -> None:
        raise ConnectionError("the log is away")

    async with TestKafkaBroker(service.broker):
        reviewing._publish = away
        with pytest.raises(ConnectionError):
            await reviewing.look(task)
        assert store.cases(task.key).num_rows == 1
        reviewing._publish = real
        assert await reviewing.look(task) == 1
        assert await reviewing.look(task) == 0
    for stop in service.on_stop:
        await stop()


async def test_a_persons_time_is_booked_once_at_the_tasks_price(service_environment) -> None:
    service = build_app(ValidatorSettings())
    booked: list[CostIncurred] = []

    @service.broker.subscriber(CostIncurred.TYPE, group_id="test")
    async def hear(event: CostIncurred) -> None:
        booked.append(event)

    fields = {
        "task": "intents",
        "case_id": "c",
        "example_id": "e",
        "request_id": "r",
        "reason": "random",
        "drawn": "random",
        "reviewer": "ann",
        "verdict": "approve",
        "label": "a",
        "previous_label": "a",
        "review_id": "review",
    }
    spent = ReviewResolved(**fields, minutes=6.0)
    unsaid = ReviewResolved(**fields)
    async with TestKafkaBroker(service.broker):
        for event in (spent, spent, unsaid, ReviewResolved(**{**fields, "task": "nobody-s"})):
            await publish(service.broker, event, source=SOURCE)
    assert [(cost.kind, cost.cause_id) for cost in booked] == [("review", "review")] * 3
    assert len({cost.id for cost in booked}) == 2
    assert [cost.usd for cost in booked] == pytest.approx([3.0, 3.0, 0.5])
    assert [cost.human_minutes for cost in booked] == [6.0, 6.0, 1.0]
    for stop in service.on_stop:
        await stop()
