"""How a service lives: start, be asked how it is, work, drain on SIGTERM within 15 s."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import structlog
from aiokafka.errors import KafkaError
from faststream.kafka import KafkaBroker

from stillhouse.bus.broker import connect, consumption_of
from stillhouse.bus.connection import commit_as_member_only
from stillhouse.settings import Settings
from stillhouse.telemetry.http import HttpServer, PortTaken
from stillhouse.telemetry.logs import configure_logging
from stillhouse.telemetry.tracing import configure_tracing

HANDLERS_S: Final = 6.0  # on SIGTERM: for handlers to finish and consumers to leave their groups
LOOPS_S: Final = 4.0  # for background loops, which may have a job's process to end
GRACE_S: Final = 11.5  # for all steps of stopping together
LAST_S: Final = 13.0  # then the process ends, whatever still hangs

log = structlog.get_logger()

Step = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Service:
    """A composed service that has not started. `background` runs until cancelled; `ready` names what it waits for."""

    name: str
    broker: KafkaBroker
    background: Sequence[Step] = ()
    on_start: Sequence[Step] = ()
    on_stop: Sequence[Step] = ()
    ready: Mapping[str, Callable[[], Awaitable[bool]]] = field(default_factory=dict)


async def writable(folder: Path) -> bool:
    """Whether `folder` is there (it is made where it is not) and can be written to."""

    def check() -> bool:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return False
        return os.access(folder, os.W_OK)

    return await asyncio.to_thread(check)


def run_service(build: Callable[[], Service], settings: Settings) -> None:
    """Compose and run until SIGTERM or SIGINT; anything expected that goes wrong is one sentence and status 1."""
    from stillhouse.models.port import ModelError
    from stillhouse.tasks import TaskFileError

    try:
        asyncio.run(_run(build, settings))
    except (KafkaError, ModelError, PortTaken, TaskFileError, OSError) as error:
        sys.exit(f"{error}")
    # All is stopped. Python's own clearing away takes seconds on a busy machine, and nothing could cut it short.
    _end(0)


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[list[asyncio.Task[object]]]:
    """`service`, started; at the end it is drained and stopped. Gives its background loops."""
    working: list[asyncio.Task[object]] = []
    try:
        # Producers first: what is recovered may have to be said.
        await connect(service.broker)
        for step in service.on_start:
            await step()
        # Not one after the other, as `KafkaBroker.start` does: each waits for its group, three seconds on the
        # embedded broker.
        await asyncio.gather(*(subscriber.start() for subscriber in service.broker.subscribers))
        for subscriber in service.broker.subscribers:
            commit_as_member_only(cast(Any, subscriber).consumer)  # every Kafka subscriber has one once it is started
        service.broker.running = True
        working += [asyncio.ensure_future(loop()) for loop in service.background]
        yield working
    finally:
        end = asyncio.get_running_loop().time() + GRACE_S
        # Handlers finish what they hold, unless they wait for something; then nothing gives the loops new work.
        consumption_of(service.broker).close()
        await _within(HANDLERS_S, service.broker.stop())
        for task in working:
            task.cancel()
        if working:
            await asyncio.wait(working, timeout=LOOPS_S)
        for step in service.on_stop:
            await _within(end - asyncio.get_running_loop().time(), step())


async def _within(seconds: float, step: Awaitable[object]) -> None:
    """Wait for a step of stopping, but not longer; what goes wrong in it must not keep the next step from being made.

    aiokafka swallows a cancellation here and there, so a step that was cancelled is not waited for.
    """
    task = asyncio.ensure_future(step)
    _, late = await asyncio.wait({task}, timeout=max(0.0, seconds))
    if late:
        log.warning("not_stopped_in_time", seconds=round(seconds, 1), step=str(task.get_coro()))
        task.cancel()
    elif not task.cancelled() and (error := task.exception()) is not None:
        log.error("not_stopped_cleanly", error=f"{type(error).__name__}: {error}")


def _end_at_last(status: int) -> None:
    """End the process in `LAST_S` seconds if it is still there. What is not done then is not acknowledged either.

    asyncio's own end waits for tasks that do not let themselves be cancelled.
    """

    def end() -> None:
        log.warning("ended_while_stopping", seconds=LAST_S)
        _end(status)

    last = threading.Timer(LAST_S, end)
    last.daemon = True
    last.start()


def _end(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


async def _run(build: Callable[[], Service], settings: Settings) -> None:
    stop = asyncio.Event()
    started = False

    def told() -> None:
        if not started:  # what it has begun, the next one does again
            log.info("ended_while_starting")
            _end(0)
        if not stop.is_set():
            stop.set()
            _end_at_last(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told)
    service = build()
    configure_logging(settings.telemetry, service.name)
    tracing = configure_tracing(settings.telemetry, service.name)

    async def ready() -> dict[str, bool]:
        checks = {name: await check() for name, check in service.ready.items()}
        kafka = started and await service.broker.ping(timeout=2.0)
        return {"started": started, "kafka": kafka, "consuming": consumption_of(service.broker).going, **checks}

    http = HttpServer(settings.telemetry.http_host, settings.telemetry.http_port, lambda: True, ready)
    await http.start()
    log.info("health and metrics", host=settings.telemetry.http_host, port=http.port)
    stopping = asyncio.create_task(stop.wait())
    try:
        async with running(service) as working:
            started = True
            # What is loaded by now stays. Looked through for garbage again and again, it stops everything for 150 ms.
            gc.collect()
            gc.freeze()
            await asyncio.wait({stopping, *working}, return_when=asyncio.FIRST_COMPLETED)
            for task in working:
                if task.done():
                    _end_at_last(1)
                    task.result()  # a loop ends by itself only with an error: let it end the process
    finally:
        stopping.cancel()
        await http.stop()
        await asyncio.to_thread(tracing.shutdown)
