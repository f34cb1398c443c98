"""The composed observer behind an in-memory broker: events in, rows in real tables and references out."""

from __future__ import annotations

from faststream.kafka import KafkaMessage, TestKafkaBroker

from services.observer.app import SOURCE, build_app
from services.observer.settings import ObserverSettings
from stillhouse.bus import publish
from stillhouse.events import CostIncurred, ExampleRecorded, InferenceCompleted, RouteChanged
from stillhouse.store import Store
from tests.unit.observer.events import audited, completed

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


async def test_the_tables_hold_everything_once_and_no_personal_data(service_environment) -> None:
    settings = ObserverSettings(observer_pause_s=0)
    settings.home.mkdir()
    service = build_app(settings)
    said: list[tuple[ExampleRecorded, str]] = []

    @service.broker.subscriber(ExampleRecorded.TYPE, group_id="test")
    async def hear(event: ExampleRecorded, message: KafkaMessage) -> None:
        said.append((event, message.headers["traceparent"]))

    route = RouteChanged(task="intents", version=1, stage="teacher", reason="r", changed_by="x", cause_id="c")
    events = [
        completed(1, input="call me at +49 170 1234567"),
        completed(2, audited=True, served_by="student", reason="student", teacher=None),
        audited(2, input="call me at +49 170 1234567"),
        completed(3, status="error", failure={"code": "unknown_task", "message": "m"}, task="nobody", teacher=None),
        CostIncurred(task="intents", cause_id="job", kind="training", usd=0.5),
        route,
    ]
    async with TestKafkaBroker(service.broker):
        for event in [*events, *events]:
            await publish(service.broker, event, source="/test", traceparent=TRACE)
        assert all([await check() for check in service.ready.values()])
    store = Store(settings.home / "store")
    examples = store.examples("default/intents").to_pylist()
    assert sorted(row["sample"] for row in examples) == ["audit", "full"]
    assert {row["input"] for row in examples} == {"call me at <phone>"}
    [audit] = store.audits("default/intents").to_pylist()
    assert audit["input"] == "call me at <phone>"
    entries = store.ledger().to_pylist()
    assert sorted(row["kind"] for row in entries) == ["audit", "request", "request", "request", "training"]
    assert store.latest_routes() == [route]
    assert {event.example_id for event, _ in said} == {row["example_id"] for row in examples}
    # In the trace of the request, not in that of the batch.
    assert {trace for _, trace in said} == {TRACE}


async def test_a_bad_record_is_put_aside_and_the_next_ones_are_taken(service_environment) -> None:
    settings = ObserverSettings(observer_pause_s=0)
    service = build_app(settings)
    letters: list[bytes] = []

    @service.broker.subscriber("dlq.observer", group_id="letters", decoder=lambda message: message.body)
    async def hear(message: KafkaMessage) -> None:
        letters.append(message.body)

    async with TestKafkaBroker(service.broker):
        await service.broker.publish(b"{not json", InferenceCompleted.TYPE, key=b"k")
        await publish(service.broker, completed(1), source=SOURCE)
    assert letters == [b"{not json"]
    assert Store(settings.home / "store").count_examples("default/intents") == 1
