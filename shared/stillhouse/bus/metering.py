"""What a service's own CPU time costs, reported for the ledger: shared out over tasks by what was done for them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal

import structlog
from aiokafka.errors import KafkaError

from stillhouse.economics.prices import cpu_usd
from stillhouse.events import CostIncurred, Event, follow_id, new_id, now
from stillhouse.tasks import Task

REPORT_S: Final = 600.0  # a process that dies leaves so much of its own time unreported

log = structlog.get_logger()


class Meter:
    """Of one process. Its models run in processes of their own, and cost what each call of theirs costs."""

    def __init__(self, kind: Literal["capture", "routing"], tasks: Mapping[str, Task]) -> None:
        self._kind = kind
        self._tasks = tasks
        self._run = new_id()
        self._reports = 0
        self._counts: Counter[str] = Counter()
        self._since = time.process_time()

    def count(self, task_key: str, number: int = 1) -> None:
        """So many requests or rows were handled for a task. Undeclared tasks are passed over."""
        if task_key in self._tasks:
            self._counts[task_key] += number

    def report(self) -> list[CostIncurred]:
        """What was used since the last report, by task: in the shares of what was counted, else in equal ones."""
        used = time.process_time()
        seconds, self._since = used - self._since, used
        counts, self._counts = self._counts, Counter()
        shares = counts or Counter(dict.fromkeys(self._tasks, 1))
        self._reports += 1
        at = now()
        events = []
        for key, count in shares.items():
            task, share = self._tasks[key], seconds * count / shares.total()
            cause = f"{self._run}/{self._reports}"
            events.append(
                CostIncurred(
                    id=follow_id(cause, CostIncurred.TYPE, key),
                    time=at,
                    tenant=task.tenant,
                    task=task.name,
                    cause_id=cause,
                    kind=self._kind,
                    usd=cpu_usd(1000 * share, task.usd_per_cpu_hour(at)),
                    cpu_seconds=share,
                )
            )
        return events

    async def report_regularly(self, publish: Callable[[Event], Awaitable[None]], *, every_s: float = REPORT_S) -> None:
        """Report until cancelled; what could not be said is said later, under the same ids."""
        waiting: list[CostIncurred] = []
        while True:
            await asyncio.sleep(every_s)
            waiting += self.report()
            try:
                while waiting:
                    await publish(waiting[0])
                    waiting.pop(0)
            except (KafkaError, OSError) as error:
                log.warning("cost_not_reported", events=len(waiting), error=f"{type(error).__name__}: {error}")
