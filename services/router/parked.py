"""Requests that wait for their task's next budget: written to `inference.parked`, handed in again when there is money.

They wait in the log, not in this process: a router that dies forgets none. What came back twice is answered once, by
its done-mark. Those of one task do not keep their order, and one that finds the new budget spent already waits again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from stillhouse.bus import BadRecord, LowWaterMark, decode
from stillhouse.events import Event, InferenceParked, InferenceRequested

GROUP: Final = "router.parked"
HELD: Final = 10_000  # requests looked at ahead of their turn, so that one task's do not hold up another's
AT_ONCE: Final = 64  # handed in before the next look at what is left
LOOK_S: Final = 0.5

log = structlog.get_logger()


def parked(request: InferenceRequested, until: datetime | None) -> InferenceParked:
    """`request` as it waits."""
    return InferenceParked.model_validate(request.model_dump() | {"until": until})


def unparked(waiting: InferenceParked) -> InferenceRequested:
    """The request as it was."""
    return InferenceRequested.model_validate(waiting.model_dump(exclude={"until"}))


class Parking(ConsumerRebalanceListener):  # type: ignore[misc]
    """Reads what is parked, and hands in what can be paid for."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        say: Callable[[Event], Awaitable[None]],
        may_pay: Callable[[str], bool],
    ) -> None:
        self._consumer = consumer
        self._say = say
        self._may_pay = may_pay
        self._marks: dict[TopicPartition, LowWaterMark] = {}
        self._held: dict[str, deque[tuple[TopicPartition, int, InferenceParked]]] = {}

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """What is held is read again from the marks, here or elsewhere."""
        self._marks.clear()
        self._held.clear()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Begin at the marks."""

    async def run(self) -> None:
        """Until cancelled."""
        self._consumer.subscribe([InferenceParked.TYPE], listener=self)
        while True:
            if sum(map(len, self._held.values())) < HELD:
                batches = await self._consumer.getmany(timeout_ms=int(1000 * LOOK_S), max_records=500)
                for partition, records in batches.items():
                    for record in records:
                        self._hold(partition, record)
            else:
                await asyncio.sleep(LOOK_S)
            await self._hand_in()

    def _hold(self, partition: TopicPartition, record: Any) -> None:
        mark = self._marks.setdefault(partition, LowWaterMark())
        mark.begin(record.offset)
        try:
            event = decode(record.topic, record.value)
            assert isinstance(event, InferenceParked)
        except BadRecord as error:
            log.error("bad_parked_request", offset=record.offset, error=str(error))
            mark.end(record.offset)
            return
        self._held.setdefault(event.task_key, deque()).append((partition, record.offset, event))

    async def _hand_in(self) -> None:
        for key, waiting in list(self._held.items()):
            if not self._may_pay(key):
                continue
            for partition, offset, event in [waiting.popleft() for _ in range(min(AT_ONCE, len(waiting)))]:
                await self._say(unparked(event))
                if (mark := self._marks.get(partition)) is not None:  # else it was taken away meanwhile
                    mark.end(offset)
        positions = {partition: mark.position for partition, mark in self._marks.items() if mark.position is not None}
        if positions:
            try:
                await self._consumer.commit(positions)
            except KafkaError as error:  # they come again, and are recognised
                log.warning("commit_failed", error=f"{type(error).__name__}: {error}")
