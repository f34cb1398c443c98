"""What surrounds every handler: events in, dead letters and repeated tries out."""

from __future__ import annotations

import pytest
from faststream import AckPolicy
from faststream.kafka import KafkaMessage, TestKafkaBroker
from redis.exceptions import ConnectionError as RedisConnectionError

from stillhouse.bus import Unprocessable, decode_batch, handling, make_broker, publish, subscriber_options
from stillhouse.events import ExampleRecorded, TrainingRequested
from stillhouse.settings import Settings

ASKED = TrainingRequested(task="t", requested_by="me", reason="r")


@pytest.fixture
def broker(monkeypatch):
    monkeypatch.setattr(handling, "FIRST_PAUSE_S", 0.0)
    return make_broker(Settings(), "trainer")


def options() -> dict[str, object]:
    return {**subscriber_options(Settings().kafka), "ack_policy": AckPolicy.NACK_ON_ERROR}


def dead_letters(broker) -> list[tuple[bytes, dict[str, str]]]:
    letters: list[tuple[bytes, dict[str, str]]] = []

    @broker.subscriber("dlq.trainer", group_id="letters", decoder=lambda message: message.body)
    async def hear(message: KafkaMessage) -> None:
        letters.append((message.body, dict(message.headers)))

    return letters


async def test_a_record_without_an_event_is_a_dead_letter_with_its_reason_and_its_place(broker) -> None:
    letters = dead_letters(broker)

    @broker.subscriber(TrainingRequested.TYPE, group_id="g", **options())
    async def handle(event: TrainingRequested) -> None:
        raise AssertionError("no event is in the record")

    async with TestKafkaBroker(broker):
        await broker.publish(b'{"task": 7}', TrainingRequested.TYPE, headers={"traceparent": "nonsense"})
    [(body, headers)] = letters
    assert body == b'{"task": 7}'
    assert headers["dlq_reason"] == "task: Input should be a valid string"
    assert headers["dlq_origin"].startswith("training.requested/0/")
    assert headers["traceparent"] == "nonsense"


async def test_a_bad_record_does_not_hold_up_the_rest_of_its_batch(broker) -> None:
    letters, got = dead_letters(broker), []

    @broker.subscriber(ExampleRecorded.TYPE, group_id="g", batch=True, **options())
    async def handle(message: KafkaMessage) -> None:
        got.extend(await decode_batch(message, ExampleRecorded))

    good = ExampleRecorded(
        task="t", example_id="e", request_id="r", input_sha256="0", sample="full", teacher_version="v"
    )
    async with TestKafkaBroker(broker):
        await broker.publish(b"\xff", ExampleRecorded.TYPE)
        await publish(broker, good, source="/test")
    assert got == [good]
    assert [body for body, _ in letters] == [b"\xff"]


async def test_an_error_is_tried_again_a_few_times_and_then_put_aside(broker) -> None:
    letters, tries = dead_letters(broker), []

    @broker.subscriber(TrainingRequested.TYPE, group_id="g", **options())
    async def handle(event: TrainingRequested) -> None:
        tries.append(event.id)
        raise ValueError("always")

    async with TestKafkaBroker(broker):
        await publish(broker, ASKED, source="/test")
    assert tries == [ASKED.id] * handling.TRIES
    assert letters[0][1]["dlq_reason"] == "ValueError: always"
    assert letters[0][1]["ce_id"] == ASKED.id


async def test_what_can_never_be_handled_is_put_aside_at_once(broker) -> None:
    letters, tries = dead_letters(broker), []

    @broker.subscriber(TrainingRequested.TYPE, group_id="g", **options())
    async def handle(event: TrainingRequested) -> None:
        tries.append(event.id)
        raise Unprocessable("no such task")

    async with TestKafkaBroker(broker):
        await publish(broker, ASKED, source="/test")
    assert len(tries) == 1
    assert letters[0][1]["dlq_reason"] == "no such task"


async def test_a_server_that_is_away_is_waited_for_however_long_and_nothing_is_put_aside(broker) -> None:
    letters, tries = dead_letters(broker), []

    @broker.subscriber(TrainingRequested.TYPE, group_id="g", **options())
    async def handle(event: TrainingRequested) -> None:
        tries.append(event.id)
        if len(tries) <= 3 * handling.TRIES:
            raise RedisConnectionError("refused")

    async with TestKafkaBroker(broker):
        await publish(broker, ASKED, source="/test")
    assert len(tries) == 3 * handling.TRIES + 1
    assert letters == []
