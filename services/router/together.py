"""Calls that come while one is under way go out together as the next one.

A command to Redis costs the router's process more than anything else about a request, however little it says; a
pipeline of many costs little more than one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

MOST: Final = 64  # calls that go out together

A = TypeVar("A")
B = TypeVar("B")


class Together(Generic[A, B]):
    """One kind of work, done for many at a time; each gets its own result."""

    def __init__(self, work: Callable[[Sequence[A]], Awaitable[Sequence[B]]]) -> None:
        """`work` gives one result for each item, in order."""
        self._work = work
        self._waiting: list[tuple[A, asyncio.Future[B]]] = []
        self._running: asyncio.Task[None] | None = None
        self._due: asyncio.TimerHandle | None = None

    async def add(self, item: A, *, within: float = 0.0) -> B:
        """The result for `item`, which may wait for company for `within` seconds. Raises what the work raised."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[B] = loop.create_future()
        self._waiting.append((item, result))
        if self._running is None:
            if within <= 0:
                self._start()
            elif self._due is None:
                self._due = loop.call_later(within, self._start)
        return await result

    def _start(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._waiting:
                taken, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                try:
                    results = await self._work([item for item, _ in taken])
                except Exception as error:
                    for _, result in taken:
                        if not result.done():  # its caller may have been cancelled
                            result.set_exception(error)
                    continue
                for (_, result), value in zip(taken, results, strict=True):
                    if not result.done():
                        result.set_result(value)
        finally:
            self._running = None
