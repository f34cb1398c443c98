"""What a service said, said again to the new log of an embedded broker.

Any other broker keeps what it accepted. The embedded one takes with it what nobody had read: a verdict that no router
heard would leave its student waiting for ever, a cost that no observer heard would be missing in the ledger. An event's
id follows from its cause, and who hears it twice does nothing the second time. So the last events are kept in a file,
which outlives the service too, and are said again.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import Awaitable
from pathlib import Path
from typing import Final, Protocol

import structlog
from aiokafka.errors import KafkaError
from opentelemetry import trace

from stillhouse.bus.cloudevents import BadRecord, decode
from stillhouse.bus.incarnation import Incarnation
from stillhouse.events import BY_NAME, SERVICES, Event
from stillhouse.settings import Kafka
from stillhouse.telemetry.tracing import traceparent_of

KEPT: Final = 100  # few enough that no student is said to have passed that the router has forgotten it retired
AGAIN_S: Final = 1.0

log = structlog.get_logger()


class Publish(Protocol):
    """How events leave: into the trace `traceparent`, or the current one."""

    def __call__(self, event: Event, *, traceparent: str | None = None) -> Awaitable[None]:
        """Raises `KafkaError`."""


class Said:
    """Publishes a service's events, and remembers the last ones in `file`. For decisions, not for requests."""

    def __init__(self, kafka: Kafka, publish: Publish, file: Path) -> None:
        self._kafka = kafka
        self._publish = publish
        self._file = file
        self._writing = asyncio.Lock()
        self._lines: deque[str] | None = None  # of the file; None: not read yet
        self._appended = KEPT  # what an earlier process left is shortened at the first event

    async def say(self, event: Event) -> None:
        """Publish `event` in the current span's trace. Raises `KafkaError` and `OSError`."""
        traceparent = traceparent_of(trace.get_current_span())
        if self._kafka.embedded and _concerns_a_service(event):
            line = json.dumps({"type": event.TYPE, "traceparent": traceparent, "event": event.model_dump(mode="json")})
            async with self._writing:
                # Before it is published: a log may be gone between its receipt and the next line.
                await asyncio.to_thread(self._keep, line)
        await self._publish(event, traceparent=traceparent)

    async def repeat(self) -> None:
        """Say everything again to the log as it is at first, and to every later one, until cancelled."""
        if not self._kafka.embedded:
            await asyncio.Event().wait()
        incarnation = Incarnation(self._kafka)
        try:
            while True:
                await incarnation.changed()
                async with self._writing:
                    lines = list(await asyncio.to_thread(self._read))
                for line in lines:
                    await self._say_again(line)
                log.info("said_again", events=len(lines))
        finally:
            await incarnation.stop()

    async def _say_again(self, line: str) -> None:
        try:
            kept = json.loads(line)
            event = decode(kept["type"], json.dumps(kept["event"]).encode())
        except (ValueError, KeyError, BadRecord) as error:  # of another version
            log.warning("not_said_again", error=f"{type(error).__name__}: {error}")
            return
        while True:
            try:
                await self._publish(event, traceparent=kept["traceparent"])
                return
            except (KafkaError, OSError) as error:
                log.warning("waiting", error=f"{type(error).__name__}: {error}", next_try_s=AGAIN_S)
                await asyncio.sleep(AGAIN_S)

    def _keep(self, line: str) -> None:
        lines = self._read()
        lines.append(line)
        self._appended += 1
        if self._appended < KEPT:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            return
        self._appended = 0
        shortened = self._file.with_suffix(".tmp")
        shortened.write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")
        os.replace(shortened, self._file)

    def _read(self) -> deque[str]:
        if self._lines is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            text = self._file.read_text(encoding="utf-8") if self._file.exists() else ""
            self._lines = deque(text.split("\n")[:-1], maxlen=KEPT)  # a line that was cut off by a kill has no end
        return self._lines


def _concerns_a_service(event: Event) -> bool:
    return not set(BY_NAME[event.TYPE].taken_by).isdisjoint(SERVICES)
