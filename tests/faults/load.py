"""Senders: they keep what they sent, and what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiokafka.errors import KafkaError

from stillhouse.client import Client
from stillhouse.events import InferenceCompleted, InferenceRequested
from stillhouse.settings import Settings
from tests.faults.platform import PATIENCE_S, until
from tests.faults.world import text_of


@dataclass
class Sent:
    """One request. Neither `completed` nor `refused`: it is under way."""

    request: InferenceRequested
    completed: InferenceCompleted | None = None
    at: float = 0.0  # when that came, time.time()
    refused: str = ""  # it could not be published, and its sender was told

    @property
    def lost(self) -> bool:
        return (
            self.completed is not None and self.completed.failure is not None and self.completed.failure.code == "lost"
        )

    @property
    def answered(self) -> bool:
        return self.completed is not None and self.completed.status == "ok"


class Load:
    """Sends requests through one client. `again`: a lost request is sent again, under its id, until it is answered."""

    def __init__(self, client: Client, seed: int = 0, *, again: bool = False) -> None:
        self._client = client
        self._rng = random.Random(seed)
        self._again = again
        self._following: set[asyncio.Task[None]] = set()
        self.sent: dict[str, Sent] = {}
        self.lost = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, settings: Settings, seed: int = 0, *, again: bool = False) -> AsyncIterator[Load]:
        async with Client(settings, source="/tests/faults") as client:
            yield cls(client, seed, again=again)

    async def send(self, count: int = 1, task: str = "fast", **fields: str) -> list[Sent]:
        """Send `count` texts, and go on without their answers."""
        sent = []
        for _ in range(count):
            request = InferenceRequested.model_validate({"task": task, "input": text_of(self._rng), **fields})
            sent.append(Sent(request))
            self.sent[request.id] = sent[-1]
            self._follow(sent[-1])
            await asyncio.sleep(0)
        return sent

    async def keep_sending(self, rate: float, task: str = "fast") -> None:
        """Send until cancelled, `rate` a second."""
        while True:
            await self.send(1, task)
            await asyncio.sleep(1 / rate)

    @contextlib.asynccontextmanager
    async def running(self, rate: float, task: str = "fast") -> AsyncIterator[None]:
        """Send meanwhile."""
        sending = asyncio.create_task(self.keep_sending(rate, task))
        try:
            yield
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def settled(self, seconds: float = PATIENCE_S) -> None:
        """Wait until every sender knows what became of its request."""
        await until(lambda: not self._following, f"answers to {len(self._following)} requests", seconds)

    def answered(self) -> dict[str, Sent]:
        return {request_id: sent for request_id, sent in self.sent.items() if sent.answered}

    def _follow(self, sent: Sent) -> None:
        task = asyncio.create_task(self._one(sent))
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _one(self, sent: Sent) -> None:
        while True:
            try:
                sent.completed = await (await self._client.submit(sent.request))
            except KafkaError as error:
                sent.refused = f"{type(error).__name__}: {error}"
            sent.at = time.time()
            if not sent.lost and not sent.refused:
                return
            self.lost += sent.lost
            if not self._again:
                return
            sent.refused = ""
