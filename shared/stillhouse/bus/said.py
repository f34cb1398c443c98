"""What a service said of late, said again to the new log of an embedded broker.

Any other broker keeps what it accepted. The embedded one takes with it what nobody had read: a verdict that no router
heard would leave its student waiting for ever, a cost that no observer heard would be missing in the ledger. An event's
id follows from its cause, and who hears it twice does nothing the second time. So what was said in the last minutes is
said again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable
from typing import Final, Protocol

import structlog
from aiokafka.errors import KafkaError
from opentelemetry import trace

from stillhouse.bus.incarnation import Incarnation
from stillhouse.events import Event
from stillhouse.settings import Kafka
from stillhouse.telemetry.tracing import traceparent_of

KEPT_S: Final = 600.0  # who has not read for longer than this must be told by hand
KEPT: Final = 500
AGAIN_S: Final = 1.0

log = structlog.get_logger()


class Publish(Protocol):
    """How events leave: into the trace `traceparent`, or the current one."""

    def __call__(self, event: Event, *, traceparent: str | None = None) -> Awaitable[None]:
        """Raises `KafkaError`."""


class Said:
    """Publishes a service's events, and remembers them. For those that few are said of: not for requests."""

    def __init__(self, kafka: Kafka, publish: Publish) -> None:
        self._kafka = kafka
        self._publish = publish
        self._events: deque[tuple[float, Event, str | None]] = deque(maxlen=KEPT)

    async def say(self, event: Event) -> None:
        """Publish `event` in the current span's trace. Raises `KafkaError`."""
        traceparent = traceparent_of(trace.get_current_span())
        # First: a log may be gone between its receipt and the next line.
        self._events.append((time.monotonic(), event, traceparent))
        await self._publish(event, traceparent=traceparent)

    async def repeat(self) -> None:
        """Say everything again whenever the embedded broker was restarted, until cancelled."""
        if not self._kafka.embedded:
            await asyncio.Event().wait()
        incarnation = Incarnation(self._kafka)
        try:
            while True:
                await incarnation.changed()
                since = time.monotonic() - KEPT_S
                again = [(event, traceparent) for at, event, traceparent in self._events if at >= since]
                if again:
                    log.warning("said_again", events=len(again))
                for event, traceparent in again:
                    await self._insist(event, traceparent)
        finally:
            await incarnation.stop()

    async def _insist(self, event: Event, traceparent: str | None) -> None:
        while True:
            try:
                await self._publish(event, traceparent=traceparent)
                return
            except (KafkaError, OSError) as error:
                log.warning("waiting", error=f"{type(error).__name__}: {error}", next_try_s=AGAIN_S)
                await asyncio.sleep(AGAIN_S)
