"""The routing table: the newest `route.changed` of every task, folded from the log by every router."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from services.router.students import Students
from stillhouse.bus import BadRecord, consumer_options, decode
from stillhouse.bus.incarnation import Incarnation
from stillhouse.events import RouteChanged
from stillhouse.settings import Kafka
from stillhouse.telemetry.metrics import metrics

PARTITION = TopicPartition(RouteChanged.TYPE, 0)

log = structlog.get_logger()


class RouteTable:
    """Read from the beginning, outside of any group. A route is in force once its students are loaded."""

    def __init__(self, kafka: Kafka, students: Students, audit_shares: Mapping[str, float]) -> None:
        """`audit_shares`: by task key, what is declared; a route may ask for more."""
        self._audit_shares = audit_shares
        self._kafka = kafka
        self._students = students
        # Any other broker keeps its log.
        self._incarnation = Incarnation(kafka) if kafka.embedded else None
        self._routes: dict[str, RouteChanged] = {}
        self._taking = asyncio.Lock()
        self._next = 0
        self._moved = asyncio.Condition()
        self._consumer: AIOKafkaConsumer | None = None
        self._reading: asyncio.Task[None] | None = None

    def get(self, task_key: str) -> RouteChanged | None:
        """The route in force of a task; None: the teacher answers."""
        return self._routes.get(task_key)

    def all(self) -> list[RouteChanged]:
        """The routes in force."""
        return list(self._routes.values())

    async def start(self) -> None:
        """Read the log to its end, then follow it. Raises `KafkaError`."""
        if self._incarnation is not None:
            await self._incarnation.start()
        consumer = AIOKafkaConsumer(**consumer_options(self._kafka))
        await consumer.start()
        self._consumer = consumer
        consumer.assign([PARTITION])
        self._reading = asyncio.create_task(self._read(consumer))
        await self.settle()

    async def stop(self) -> None:
        """Stop following."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._consumer is not None:
            await self._consumer.stop()
        if self._incarnation is not None:
            await self._incarnation.stop()

    async def settle(self) -> None:
        """Wait until everything that is in the log now is in force. Raises `KafkaError`."""
        assert self._consumer is not None
        end = (await self._consumer.end_offsets([PARTITION]))[PARTITION]
        async with self._moved:
            await self._moved.wait_for(lambda: self._next >= end)

    async def take(self, route: RouteChanged) -> None:
        """Put a route in force, unless a newer one is."""
        # The controller puts its own decision in force, and reads it from the log at the same time.
        async with self._taking:
            known = self._routes.get(route.task_key)
            if known is not None and known.version >= route.version:
                return
            await self._students.load(route)
            self._routes[route.task_key] = route
            await self._students.keep(self._routes.values())
        metrics().set_stage(route.task_key, route.stage)
        if route.task_key in self._audit_shares:
            share = max(self._audit_shares[route.task_key], route.audit_pi or 0.0)
            metrics().audit_share.labels(route.task_key).set(share)
        for gate in ("shadow", "canary"):  # a candidate enters a stage by a change of route
            metrics().set_gate(route.task_key, gate, route.time if route.candidate_stage == gate else None)
        log.info(
            "route_in_force",
            task=route.task_key,
            version=route.version,
            stage=route.stage,
            live=route.live.student_id if route.live else None,
            candidate=route.candidate.student_id if route.candidate else None,
            reason=route.reason,
        )

    async def guard(self, publish: Callable[[RouteChanged], Awaitable[None]]) -> None:
        """Write the routes again whenever the embedded broker was restarted and has lost them, until cancelled."""
        assert self._consumer is not None
        if self._incarnation is None:
            await asyncio.Event().wait()
            return
        while True:
            await self._incarnation.changed()
            log.warning("routes_written_again", routes=len(self._routes))
            # It would wait at its old position until the new log is as long, and miss everything before that.
            self._consumer.seek(PARTITION, 0)
            self._next = 0
            for route in self.all():
                await publish(route)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            try:
                route = decode(record.topic, record.value)
                assert isinstance(route, RouteChanged)
                await self.take(route)
            except BadRecord as error:
                log.error("bad_route", offset=record.offset, error=str(error))
            async with self._moved:
                self._next = record.offset + 1
                self._moved.notify_all()
