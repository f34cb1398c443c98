"""The one writer of routes: decides on the newest route, writes the next version, and obeys it itself at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import structlog

from services.router.controller import Control, decide
from services.router.routes import RouteTable
from stillhouse.events import RouteChanged
from stillhouse.tasks import Task

log = structlog.get_logger()


class RouteHistory(Protocol):
    """What the store remembers of routes."""

    def latest_routes(self) -> list[RouteChanged]:
        """The newest route of every task."""
        ...


class RouteController:
    """Takes control events, one at a time."""

    def __init__(
        self, tasks: Mapping[str, Task], table: RouteTable, publish: Callable[[RouteChanged], Awaitable[None]]
    ) -> None:
        self._tasks = tasks
        self._table = table
        self._publish = publish

    async def take(self, event: Control) -> None:
        """Change the task's route where `event` asks for it; the same event twice changes it once."""
        task = self._tasks.get(event.task_key)
        if task is None:
            log.warning("unknown_task", task=event.task_key, event_type=event.TYPE)
            return
        # Another router may have decided until a moment ago.
        await self._table.settle()
        after = decide(self._table.get(task.key), event, task)
        if after is None:
            log.info("route_kept", task=task.key, event_type=event.TYPE, event_id=event.id)
            return
        await self._publish(after)
        await self._table.take(after)

    async def restore(self, history: RouteHistory) -> None:
        """Write the routes that the log does not know (any more): the embedded broker forgets everything."""
        for route in await asyncio.to_thread(history.latest_routes):
            known = self._table.get(route.task_key)
            if route.task_key in self._tasks and (known is None or known.version < route.version):
                log.info("route_restored", task=route.task_key, version=route.version, stage=route.stage)
                await self._publish(route)
                await self._table.take(route)
