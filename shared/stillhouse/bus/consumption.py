"""Whether a service goes on reading a topic: not where most of its records fail.

One bad record is put aside and the rest goes on. Where most fail, no single record is at fault: a producer was changed
or a handler is broken, and going on would only turn the whole topic into dead letters. So reading stops, says so, and
tries a few records again after a pause, for as long as it takes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import structlog

from stillhouse.telemetry.metrics import metrics

WINDOW: Final = 50  # newest records of a topic that are looked at
FEWEST: Final = 20  # records without which nothing is concluded; also what is tried after a pause
PAUSE_S: Final = 30.0

log = structlog.get_logger()


class Stopping(Exception):
    """The service was told to stop while it waited; the record in hand is not done, and is read again."""


class Consumption:
    """The recent records of one service, by topic: which had their effect, and which were put aside."""

    def __init__(self, service: str, pause_s: float = PAUSE_S) -> None:
        self._service = service
        self._pause_s = pause_s
        self._recent: dict[str, deque[bool]] = {}
        self._stopped: dict[str, float] = {}  # topic -> when a few records are tried again (the loop's time)
        self._closing = asyncio.Event()

    @property
    def going(self) -> bool:
        """Whether every topic is read."""
        return not self._stopped

    async def allowed(self, topic: str) -> None:
        """Wait while `topic` is not to be read. Raises `Stopping` when the service is told to stop meanwhile."""
        if topic not in self._recent:
            self._recent[topic] = deque(maxlen=WINDOW)
            metrics().consuming.labels(self._service, topic).set(1)
        while (left := self._stopped.get(topic, 0.0) - asyncio.get_running_loop().time()) > 0:
            await self.sleep(left)

    def count(self, topic: str, good: int, bad: int) -> None:
        """Take note of records that were done with. Stops or resumes the topic where that is due."""
        recent = self._recent.setdefault(topic, deque(maxlen=WINDOW))
        recent.extend([True] * min(good, WINDOW))
        recent.extend([False] * min(bad, WINDOW))
        failed = recent.count(False)
        if len(recent) >= FEWEST and 2 * failed > len(recent):
            log.error(
                "consumption_stopped",
                topic=topic,
                failed=failed,
                of=len(recent),
                next_try_s=self._pause_s,
                mend="most records fail: mend their producer or this service; runbook ConsumptionStopped",
            )
            recent.clear()
            metrics().consuming.labels(self._service, topic).set(0)
            loop = asyncio.get_running_loop()
            again = self._stopped[topic] = loop.time() + self._pause_s
            # Where nothing comes any more, nothing fails any more either.
            loop.call_at(again + self._pause_s, self._resume, topic, again)
        elif good and not bad and topic in self._stopped:
            self._resume(topic, self._stopped[topic])

    def close(self) -> None:
        """The service is told to stop: nobody waits any longer."""
        self._closing.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not beyond the service's life: raises `Stopping`."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return
        raise Stopping("the service is stopping")

    def _resume(self, topic: str, since: float) -> None:
        if self._stopped.get(topic) == since:
            del self._stopped[topic]
            metrics().consuming.labels(self._service, topic).set(1)
            log.info("consumption_resumed", topic=topic)
