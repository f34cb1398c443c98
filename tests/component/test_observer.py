"""The composed observer behind an in-memory broker: events in, rows in real tables and references out."""

from __future__ import annotations

from datetime import timedelta

from faststream.kafka import KafkaMessage, TestKafkaBroker

from services.observer.app import SOURCE, build_app
from services.observer.settings import ObserverSettings
from stillhouse.bus import publish
from stillhouse.events import CostIncurred, ExampleRecorded, ExampleReviewed, InferenceCompleted, RouteChanged
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


def reviewed(store: Store, number: int, verdict: str, label: str | None, note: str = "") -> ExampleReviewed:
    [row] = [row for row in store.examples("default/intents").to_pylist() if row["request_id"] == "request-1"]
    return ExampleReviewed.model_validate(
        {
            "id": f"review-{number}",
            "time": row["time"] + timedelta(minutes=number),
            "task": "intents",
            "case_id": "case-1",
            "example_id": row["example_id"],
            "request_id": row["request_id"],
            "input_sha256": row["input_sha256"],
            "reason": "random",
            "drawn": "random",
            "reviewer": "ann",
            "verdict": verdict,
            "label": label,
            "previous_label": "a",
            "note": note,
        }
    )


async def test_reviews_correct_the_store_once_in_any_order_and_replays_change_nothing(service_environment) -> None:
    settings = ObserverSettings(observer_pause_s=0)
    service = build_app(settings)
    store = Store(settings.home / "store")
    async with TestKafkaBroker(service.broker):
        await publish(service.broker, completed(1), source="/test")
        first = reviewed(store, 1, "correct", "c", note="write to ann@example.org")
        second = reviewed(store, 2, "correct", "b")
        for event in (second, first, second, first, completed(1), completed(7)):  # 7: the same text, later
            await publish(service.broker, event, source="/test")
    rows = store.reviewed_examples("default/intents")
    assert [(row["output"], row["teacher_output"], row["provenance"]) for row in rows] == [("b", "a", "human")] * 2
    assert [row["output"] for row in store.examples("default/intents").to_pylist()] == ["a", "a"]
    reviews = store.reviews("default/intents").to_pylist()
    assert [(row["review_id"], row["label"], row["note"]) for row in reviews] == [
        ("review-1", "c", "write to <email>"),
        ("review-2", "b", ""),
    ]
    until_the_first = store.reviewed_examples("default/intents", until=first.time)
    assert [row["output"] for row in until_the_first] == ["c", "c"]


async def test_a_review_of_what_was_erased_is_not_kept(service_environment) -> None:
    settings = ObserverSettings(observer_pause_s=0)
    service = build_app(settings)
    store = Store(settings.home / "store")
    async with TestKafkaBroker(service.broker):
        await publish(service.broker, completed(1), source="/test")
        event = reviewed(store, 1, "correct", "b")
        assert store.erase(requests=["request-1"]).examples == 1
        for again in (event, completed(1), completed(1, time=event.time.replace(year=2100))):
            await publish(service.broker, again, source="/test")
    assert store.reviews("default/intents").num_rows == store.examples("default/intents").num_rows == 0
