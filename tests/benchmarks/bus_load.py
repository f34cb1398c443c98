"""The generator of `bus`, a process of its own: an open loop, so a slow server is asked no less often.

`python -m tests.benchmarks.bus_load JOB`: JOB is JSON with `rate` (requests a second, Poisson), `seconds`, `fast_ms`,
`slow_ms`, `slow_share`, `seed`, `patience_s`. Latency counts from the moment at which a request was meant to leave.
Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
import time
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stillhouse.bus import consumer_options, encode, producer_options
from stillhouse.events import InferenceCompleted, InferenceRequested
from stillhouse.settings import Settings


async def load(job: dict[str, Any]) -> dict[str, Any]:
    """Send, wait for the answers, and say what came back when."""
    kafka = Settings().kafka
    rng = np.random.default_rng(job["seed"])
    due = np.cumsum(rng.exponential(1 / job["rate"], int(job["rate"] * job["seconds"])))
    slow = rng.random(due.size) < job["slow_share"]
    run = secrets.token_hex(4)
    producer = AIOKafkaProducer(**producer_options(kafka))
    consumer = AIOKafkaConsumer(**consumer_options(kafka, urgent=True))
    await producer.start()
    await consumer.start()
    partitions = [TopicPartition(InferenceCompleted.TYPE, n) for n in range(12)]
    ends = await consumer.end_offsets(partitions)
    consumer.assign(partitions)
    for partition, end in ends.items():
        consumer.seek(partition, end)
    records = [_record(f"{run}-{i}", job["slow_ms"] if slow[i] else job["fast_ms"]) for i in range(due.size)]
    arrived = np.full(due.size, np.nan)
    answers = 0
    complete = asyncio.Event()
    began = time.perf_counter() + 0.2

    async def read() -> None:
        nonlocal answers
        async for record in consumer:
            # Of this run? The key is the request id.
            name, _, place = record.key.decode().partition("-")
            if name != run:
                continue
            answers += 1
            if np.isnan(arrived[int(place)]):
                arrived[int(place)] = time.perf_counter() - began
            if answers >= due.size:
                complete.set()

    reading = asyncio.create_task(read())
    late = np.empty(due.size)
    for i, (topic, key, value, headers) in enumerate(records):
        wait = due[i] - (time.perf_counter() - began)
        if wait > 0:
            await asyncio.sleep(wait)
        await producer.send(topic, value, key=key, headers=headers)
        late[i] = time.perf_counter() - began - due[i]
        if i % 50 == 0:
            await asyncio.sleep(0)  # behind time, it would never let the answers in
    await producer.flush()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(complete.wait(), job["patience_s"])
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await consumer.stop()
    await producer.stop()
    waited = (arrived - due) * 1000
    expected = np.where(slow, job["slow_ms"], job["fast_ms"])
    added = waited - expected
    fast = added[~slow & ~np.isnan(added)]
    last = float(np.nanmax(arrived)) if answers else float("nan")
    return {
        "sent": int(due.size),
        "answered": int((~np.isnan(arrived)).sum()),
        "duplicates": int(answers - (~np.isnan(arrived)).sum()),
        "offered_rps": due.size / float(due[-1]),
        "answered_rps": float((~np.isnan(arrived)).sum()) / last,
        "fast": _quantiles(fast),
        "slow": _quantiles(added[slow & ~np.isnan(added)]),
        # How late the generator itself was: a large value says that it, or the machine, was the bottleneck.
        "sender_late_p99_ms": float(np.quantile(late, 0.99) * 1000),
    }


def _record(request_id: str, milliseconds: float) -> tuple[str, bytes, bytes, list[tuple[str, bytes]]]:
    text = f"{milliseconds:g} is how long this one takes; the rest is a message of the usual length, as people write."
    record = encode(InferenceRequested(id=request_id, task="bench", input=text), source="/bench")
    return record.topic, record.key, record.value, record.headers


def _quantiles(added: np.ndarray) -> dict[str, Any]:
    if not added.size:
        return {"n": 0}
    p50, p90, p99 = (float(np.quantile(added, q)) for q in (0.5, 0.9, 0.99))
    return {"n": int(added.size), "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "max_ms": float(added.max())}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(json.loads(sys.argv[1])))))
