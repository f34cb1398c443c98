"""The process that `bus` measures: the router, or a bare aiokafka loop, with a model of constant latency inside.

`python -m tests.benchmarks.bus_served {router,edge,floor}` with the router's settings in the environment. An input
`5 ...` is answered after 5 ms of waiting. Writes `ready` to standard output and runs until SIGTERM.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from services.router.app import build_app
from services.router.settings import RouterSettings
from stillhouse.bus import consumer_options, producer_options
from stillhouse.bus.service import running
from stillhouse.events import InferenceCompleted, InferenceRequested
from stillhouse.models.port import Prediction
from stillhouse.telemetry.tracing import configure_tracing

TASK = "default/bench"


class ConstantLatency:
    """Waits as many milliseconds as the input's first word says; then it knows the answer."""

    version = "constant-1"

    async def predict(self, batch: Sequence[str]) -> list[Prediction]:
        """The answer `yes` to everything."""
        await asyncio.sleep(float(batch[0].split(" ", 1)[0]) / 1000)
        return [Prediction("yes", 0.9, {"yes": 0.9, "no": 0.1}, cost_usd=0.002) for _ in batch]


async def router(settings: RouterSettings, stop: asyncio.Event) -> None:
    """The product's router, as its service composes it."""
    configure_tracing(settings.telemetry, "router")
    async with running(build_app(settings, {TASK: ConstantLatency()})):
        await _serve(stop)


async def edge(settings: RouterSettings, stop: asyncio.Event) -> None:
    """The same with the teachers that its tasks declare, for requests over HTTP."""
    configure_tracing(settings.telemetry, "router")
    async with running(build_app(settings)):
        await _serve(stop)


async def floor(settings: RouterSettings, stop: asyncio.Event) -> None:
    """What nobody can undercut on these clients: a record in, the model's wait, a record out, commits now and then."""
    kafka, model = settings.kafka, ConstantLatency()
    consumer = AIOKafkaConsumer(InferenceRequested.TYPE, group_id="floor", **consumer_options(kafka, urgent=True))
    producer = AIOKafkaProducer(**producer_options(kafka))
    await producer.start()
    await consumer.start()
    calls: set[asyncio.Task[None]] = set()

    async def answer(key: bytes, value: bytes) -> None:
        request = json.loads(value)
        said = (await model.predict([request["input"]]))[0]
        completed = json.dumps({"request_id": request["id"], "output": said.output}).encode()
        await producer.send_and_wait(InferenceCompleted.TYPE, completed, key=key)

    async def read() -> None:
        async for record in consumer:
            call = asyncio.create_task(answer(record.key, record.value))
            calls.add(call)
            call.add_done_callback(calls.discard)

    async def commit() -> None:
        while True:
            await asyncio.sleep(0.2)
            await consumer.commit()

    loops = [asyncio.create_task(read()), asyncio.create_task(commit())]
    await _serve(stop)
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    await consumer.stop()
    await producer.stop()


async def _serve(stop: asyncio.Event) -> None:
    """Say that all is ready, and wait; profile meanwhile where `STILLHOUSE_BENCH_PROFILE` names a file."""
    profile = os.environ.get("STILLHOUSE_BENCH_PROFILE")
    profiler = cProfile.Profile(time.process_time)  # CPU time: the machine may be busy with others
    if profile:
        profiler.enable()
    print("ready", flush=True)
    await stop.wait()
    if profile:
        profiler.disable()
        profiler.dump_stats(profile)


async def main() -> None:
    """Run what the command line names."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await {"router": router, "edge": edge, "floor": floor}[sys.argv[1]](RouterSettings(), stop)


if __name__ == "__main__":
    asyncio.run(main())
