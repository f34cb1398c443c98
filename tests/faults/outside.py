"""What must hold, checked from outside: in the topics, the store, Redis and the folders, not in what services say."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from stillhouse.bus import BadRecord, consumer_options, decode
from stillhouse.bus.jobs import read_json
from stillhouse.events import BY_NAME, Event
from stillhouse.settings import Kafka
from tests.faults.load import Load
from tests.faults.platform import PATIENCE_S, Platform, until

FAST, SLOW = "default/fast", "default/slow"
PRICE = 0.01
SETTLED_S = 60.0  # what the slowest consumer may be behind


async def read(kafka: Kafka, topic: str) -> list[Event]:
    """Everything that is in `topic` now, poison left out."""
    events = []
    async with AIOKafkaConsumer(**consumer_options(kafka, urgent=True)) as consumer, asyncio.timeout(PATIENCE_S):
        partitions = [TopicPartition(topic, number) for number in range(BY_NAME[topic].partitions)]
        left = {partition: end for partition, end in (await consumer.end_offsets(partitions)).items() if end}
        consumer.assign(list(left))
        for partition in left:
            consumer.seek(partition, 0)
        while left:
            for partition, batch in (await consumer.getmany(*left, timeout_ms=200)).items():
                for record in batch:
                    try:
                        events.append(decode(topic, record.value))
                    except BadRecord:
                        continue
                if batch and batch[-1].offset + 1 >= left[partition]:
                    del left[partition]
    return events


def repeated(values: Iterable[Any]) -> list[Any]:
    """What is there more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


async def recorded(platform: Platform, load: Load, excused: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Wait until the ledger holds every answered request; `excused` need not be there."""
    wanted = load.answered().keys() - excused

    def missing() -> set[str]:
        return wanted - {row["cause_id"] for row in ledger(platform) if row["kind"] == "request"}

    async def all_there() -> bool:
        return not await asyncio.to_thread(missing)

    try:
        await until(all_there, "every answered request in the ledger", every=0.5)
    except AssertionError as error:
        left = [load.sent[request_id].completed for request_id in sorted(missing())]
        raise AssertionError(f"{error}; {len(left)} are not, such as {left[:3]}") from None


def ledger(platform: Platform) -> list[dict[str, Any]]:
    return list(platform.store.ledger().to_pylist())


async def lasting(look: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """What `look` still finds after a while: what is under way is in one place before the other, a fault stays."""
    end = time.monotonic() + SETTLED_S
    while True:
        found = await look()
        if not found or time.monotonic() > end:
            return found
        await asyncio.sleep(0.5)


async def unsound_store(platform: Platform, load: Load) -> list[str]:
    """What is wrong in the store: anything twice, a wrong price, an audit that is not in the ledger."""
    return await lasting(lambda: asyncio.to_thread(_wrong_in_store, platform, load))


async def unsound_jobs(platform: Platform) -> list[str]:
    """What is wrong with training: more than one student or one end of a job, an artefact of no job."""
    return await lasting(lambda: asyncio.to_thread(_wrong_in_jobs, platform))


async def unsound_tests(platform: Platform) -> list[str]:
    """What is wrong with the sequential tests in Redis: more cases counted than audits seen."""
    return await lasting(lambda: _wrong_in_tests(platform))


def _wrong_in_store(platform: Platform, load: Load) -> list[str]:
    wrong = []
    entries = ledger(platform)
    requests = [row for row in entries if row["kind"] == "request"]
    audits_paid = [row for row in entries if row["kind"] == "audit"]
    wrong += [f"ledger entry {entry} twice" for entry in repeated(row["entry_id"] for row in entries)]
    wrong += [f"request {cause} in the ledger twice" for cause in repeated(row["cause_id"] for row in requests)]
    for row in requests:
        sent = load.sent.get(row["cause_id"])
        if sent is None:
            continue  # another test's
        if sent.answered and row["teacher_usd"] != PRICE:
            wrong.append(f"request {row['cause_id']}: the teacher's price is {row['teacher_usd']}")
        if sent.answered and row["served_by"] == "teacher" and not PRICE <= row["usd"] < 1.01 * PRICE:
            wrong.append(f"request {row['cause_id']}: the teacher answered for {row['usd']}")
    for task in (FAST, SLOW):
        examples = platform.store.examples(task).to_pylist()
        wrong += [f"example {name} twice" for name in repeated(row["example_id"] for row in examples)]
        wrong += [f"request {name} has two examples" for name in repeated(row["request_id"] for row in examples)]
        verdicts = platform.store.evaluations(task).to_pylist()
        decided = ((row["student_id"], row["stage"]) for row in verdicts if row["verdict"] != "undecided")
        wrong += [f"gate {gate} was decided twice" for gate in repeated(decided)]
        routes = platform.store.routes(task).to_pylist()
        wrong += [f"{task}: two routes of version {v}" for v in repeated(row["version"] for row in routes)]
    audits = platform.store.audits(FAST).to_pylist()
    wrong += [f"audit {name} twice" for name in repeated(row["audit_id"] for row in audits)]
    pairs = ((row["request_id"], row["student_id"]) for row in audits)
    wrong += [f"request and student {pair} audited twice" for pair in repeated(pairs)]
    if len(audits_paid) < len(audits):
        wrong.append(f"{len(audits)} audits, of which {len(audits_paid)} are in the ledger")
    return wrong


def _wrong_in_jobs(platform: Platform) -> list[str]:
    wrong, students = [], set()
    for path in (platform.home / "jobs").glob("*/job.json"):
        job = json.loads(path.read_text())
        if job["kind"] == "training":
            students.add(job["student_id"])
            outcome = read_json(path.parent / "outcome.json")
            if outcome and outcome["event"]["job_id"] != path.parent.name:
                wrong.append(f"job {path.parent.name} ended as {outcome['event']['job_id']}")
    artefacts = {p.name for p in (platform.home / "artefacts").glob("*") if not p.name.startswith(".")}
    wrong += [f"artefact {name} belongs to no job" for name in artefacts - students]
    return wrong


async def unsound_events(platform: Platform) -> list[str]:
    """What is wrong in the control topics: a job with two students, a gate with two verdicts, an alarm said twice."""
    kafka, wrong = platform.settings.kafka, []
    students: dict[str, set[str]] = defaultdict(set)
    for event in await read(kafka, "student.trained"):
        students[event.job_id].add(f"{event.student_id} {event.id}")  # type: ignore[attr-defined]
    wrong += [f"job {job} made {made}" for job, made in students.items() if len(made) > 1]
    verdicts: dict[tuple[str, str], set[str]] = defaultdict(set)
    for topic in ("gate.passed", "gate.failed"):
        for event in await read(kafka, topic):
            verdicts[event.student_id, event.stage].add(event.id)  # type: ignore[attr-defined]
    wrong += [f"gate {gate} has verdicts {ids}" for gate, ids in verdicts.items() if len(ids) > 1]
    alarms: dict[str, set[str]] = defaultdict(set)
    for event in await read(kafka, "drift.detected"):
        alarms[event.student_id].add(event.id)  # type: ignore[attr-defined]
    return wrong + [f"student {student} has alarms {ids}" for student, ids in alarms.items() if len(ids) > 1]


async def _wrong_in_tests(platform: Platform) -> list[str]:
    wrong = []
    async with platform.redis() as redis:
        keys = [key async for key in redis.scan_iter("stillhouse:drift:{*}:*")]
        for key in [key for key in keys if b":" not in key.rpartition(b"}:")[2]]:  # beside them: seen, inputs
            state, seen = json.loads(await redis.get(key)), await redis.zcard(key + b":seen")
            counted = state["detector"]["n"]
            if counted > seen or (counted < seen and not state["announced"]):
                wrong.append(f"{key.decode()}: {counted} counted, {seen} audits seen")
        for key in [key async for key in redis.scan_iter("stillhouse:stage:{*}:canary")]:
            state, seen = json.loads(await redis.get(key)), await redis.scard(key + b":seen")
            counted = state["test"]["agree"] + state["test"]["disagree"]
            if counted > seen or (counted < seen and state["test"]["verdict"] == "undecided"):
                wrong.append(f"{key.decode()}: {counted} counted, {seen} audits seen")
    return wrong


async def live_student(platform: Platform) -> str | None:
    """Who serves `fast` now, by the store's history."""
    routes = await asyncio.to_thread(platform.store.latest_routes)
    return next((r.live.student_id for r in routes if r.task_key == FAST and r.live is not None), None)
