"""Requests through a real broker: out of order, with errors, with poison, and again after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from prometheus_client import REGISTRY

from services.router import intake
from services.router.app import build_app
from services.router.settings import RouterSettings
from stillhouse.bus import consumer_options, encode, producer_options
from stillhouse.bus.service import running
from stillhouse.client import Client, RequestFailed
from stillhouse.events import InferenceCompleted, InferenceRequested
from stillhouse.models.port import Prediction
from stillhouse.settings import Redis
from stillhouse.telemetry.names import CONSUMER_LAG, REQUESTS

TASK_FILE = """
[task]
name = "greet"
labels = ["hello", "bye"]
max_input_chars = 100

[teacher]
seed = "seed.jsonl"
usd_per_call = 0.002

[[teacher.escalate]]
name = "fraud"
patterns = ["fraud"]

[[student]]
architecture = "hashed_ngrams"

[gate]
canary_share = 0.5

[audit]
pi = 0.5
"""


class FakeTeacher:
    """Answers at once, except inputs that begin with `slow`: those wait until the test lets them go."""

    version = "fake-1"

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.called = asyncio.Event()
        self.calls: list[str] = []

    async def predict(self, batch):
        self.calls += batch
        self.called.set()
        if batch[0].startswith("slow"):
            await self.release.wait()
        return [
            Prediction("hello" if "hello" in text else "bye", 0.9, {"hello": 0.9}, cost_usd=0.002) for text in batch
        ]


@contextlib.asynccontextmanager
async def router(settings, teacher, grace=12.0):
    service = build_app(settings.model_copy(update={"router_grace_s": grace}), {"default/greet": teacher})
    async with running(service) as loops:
        yield loops


@pytest.fixture
async def settings(broker, valkey, tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "greet.toml").write_text(TASK_FILE)
    (tmp_path / "tasks" / "seed.jsonl").write_text("")
    return RouterSettings(
        kafka=broker.settings, redis=Redis(url=valkey.url), home=tmp_path / "home", tasks=tmp_path / "tasks"
    )


async def test_a_request_makes_the_round_trip(settings) -> None:
    async with router(settings, FakeTeacher()), Client(settings) as client:
        completed = await client.request(task="greet", input="oh hello", timeout=30)
    assert (completed.output, completed.served_by, completed.reason) == ("hello", "teacher", "no_student")
    assert completed.teacher is not None
    assert completed.cost_usd == completed.teacher_cost_usd == 0.002


async def test_fast_requests_overtake_a_slow_one_on_their_own_partition(settings) -> None:
    teacher = FakeTeacher()
    async with router(settings, teacher), Client(settings) as client:
        slow = await client.submit(InferenceRequested(task="greet", input="slow"))
        # 60 keys over 12 partitions: some share the slow one's
        fast = [await client.submit(InferenceRequested(task="greet", input=f"fast {n}")) for n in range(60)]
        async with asyncio.timeout(30):
            await asyncio.gather(*fast)
        assert not slow.done()
        teacher.release.set()
        assert (await asyncio.wait_for(slow, 30)).output == "bye"


async def test_errors_are_answers_and_poison_is_a_dead_letter(settings) -> None:
    async with router(settings, FakeTeacher()), Client(settings) as client:
        async with AIOKafkaProducer(**producer_options(settings.kafka)) as producer:
            for poison in (b"{not json", b'{"task": 7}', b""):
                await producer.send_and_wait(InferenceRequested.TYPE, poison, key=b"poison")
        with pytest.raises(RequestFailed, match="no task 'default/nobody' is declared; known: default/greet"):
            await client.request(task="nobody", input="x", timeout=30)
        with pytest.raises(RequestFailed, match="101 characters"):
            await client.request(task="greet", input="x" * 101, timeout=30)
        assert (await client.request(task="greet", input="hello", timeout=30)).output == "hello"
        async with AIOKafkaConsumer("dlq.router", **consumer_options(settings.kafka)) as dead, asyncio.timeout(30):
            letters = [await dead.getone() for _ in range(3)]
    assert [letter.value for letter in letters] == [b"{not json", b'{"task": 7}', b""]
    assert all(dict(letter.headers)["dlq_reason"] for letter in letters)


async def test_what_was_in_flight_at_a_crash_is_answered_by_the_next_router(settings) -> None:
    stuck, healthy = FakeTeacher(), FakeTeacher()
    healthy.release.set()
    async with Client(settings) as client:
        async with router(settings, stuck, grace=0):
            slow = await client.submit(InferenceRequested(task="greet", input="slow hello"))
            await asyncio.wait_for(stuck.called.wait(), 30)
        # It left without grace: nothing of the slow call is committed.
        async with router(settings, healthy):
            assert (await asyncio.wait_for(slow, 60)).output == "hello"


async def test_done_requests_are_committed_at_shutdown(settings) -> None:
    teacher = FakeTeacher()
    async with Client(settings) as client:
        async with router(settings, teacher):
            await asyncio.gather(*[client.request(task="greet", input=f"hello {n}", timeout=30) for n in range(20)])
        async with router(settings, again := FakeTeacher()):
            await client.request(task="greet", input="new", timeout=30)
    assert again.calls == ["new"]


def ask_with_confluent_kafka(bootstrap: str, document: dict) -> dict:
    """Written from the AsyncAPI document alone."""
    from confluent_kafka import Consumer, Producer

    channels = document["channels"]
    asked, answered = channels["inference.requested"]["address"], channels["inference.completed"]["address"]
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "elsewhere", "auto.offset.reset": "earliest"})
    consumer.subscribe([answered])
    producer = Producer({"bootstrap.servers": bootstrap})
    value = {"id": "from-elsewhere-1", "task": "greet", "input": "hello", "time": "2026-01-01T00:00:00Z"}
    producer.produce(asked, json.dumps(value), key=value["id"])
    producer.flush(20)
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            record = consumer.poll(1.0)
            if record is not None and record.error() is None:
                completed = json.loads(record.value())
                if completed["request_id"] == value["id"]:
                    return completed | {"headers": dict(record.headers())}
    finally:
        consumer.close()
    raise AssertionError("no answer within a minute")


async def test_a_client_in_another_library_needs_the_document_only(settings) -> None:
    document = json.loads((Path(__file__).parents[3] / "shared/stillhouse/events/asyncapi.json").read_text())
    async with router(settings, FakeTeacher()):
        completed = await asyncio.to_thread(ask_with_confluent_kafka, settings.kafka.bootstrap_servers, document)
    assert completed["output"] == "hello"
    assert completed["headers"]["ce_type"] == b"io.stillhouse.inference.completed.v1"


async def test_answers_and_dead_letters_are_counted_and_unknown_tasks_make_no_label(settings) -> None:
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    answered = {"task": "default/greet", "served_by": "teacher", "reason": "no_student", "status": "ok"}
    unknown = {"task": "unknown", "served_by": "nobody", "reason": "unknown_task", "status": "error"}
    before = [value(REQUESTS, **answered), value(REQUESTS, **unknown)]
    async with router(settings, FakeTeacher()), Client(settings) as client:
        await client.request(task="greet", input="hello", timeout=30)
        with pytest.raises(RequestFailed):
            await client.request(task="nobody", input="x", timeout=30)
    assert [value(REQUESTS, **answered), value(REQUESTS, **unknown)] == [before[0] + 1, before[1] + 1]


async def test_the_same_request_again_gets_the_same_answer_and_nobody_is_asked_twice(settings) -> None:
    request = InferenceRequested(id="once", task="greet", input="hello")
    record = encode(request, source="/test")
    teacher = FakeTeacher()
    async with router(settings, teacher), AIOKafkaProducer(**producer_options(settings.kafka)) as producer:
        for _ in range(3):
            await producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)
        answered = AIOKafkaConsumer(InferenceCompleted.TYPE, **consumer_options(settings.kafka))
        async with answered, asyncio.timeout(30):
            answers = [await answered.getone() for _ in range(3)]
    assert teacher.calls == ["hello"]
    assert len({answer.value for answer in answers}) == 1


async def test_a_copy_goes_where_the_sender_asked_and_a_topic_that_takes_none_stops_nobody(settings) -> None:
    async with router(settings, FakeTeacher()), Client(settings) as client:
        answer = await (await client.submit(InferenceRequested(task="greet", input="hello", reply_to="route.changed")))
        assert answer.output == "hello"
        assert (await client.request(task="greet", input="hello", timeout=30)).output == "hello"


async def test_a_full_router_says_how_many_requests_it_has_not_read(settings, monkeypatch) -> None:
    monkeypatch.setattr(intake, "LAG_S", 0.05)
    teacher = FakeTeacher()

    def lag() -> float:
        labels = ({"group": "router.intake", "topic": "inference.requested", "partition": str(n)} for n in range(12))
        return sum(REGISTRY.get_sample_value(CONSUMER_LAG, one) or 0.0 for one in labels)

    async def until(wanted: float) -> None:
        end = time.monotonic() + 30
        while lag() != wanted:
            assert time.monotonic() < end, lag()
            await asyncio.sleep(0.02)

    bounded = settings.model_copy(update={"router_max_in_flight": 2})
    async with router(bounded, teacher), Client(settings) as client:
        slow = [await client.submit(InferenceRequested(task="greet", input=f"slow {n}")) for n in range(40)]
        # Two are being answered; none is taken that would have to wait.
        await until(38)
        teacher.release.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*slow)
        await until(0)
