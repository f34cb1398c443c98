"""What the store's bytes cost, once a day: shared out over tasks by their examples."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from aiokafka.errors import KafkaError

from stillhouse.economics.limits import begin_of, end_of, name_of
from stillhouse.events import CostIncurred, Event, follow_id, now
from stillhouse.store import Store
from stillhouse.tasks import Task

GIGABYTE: Final = 1e9
LOOK_S: Final = 600.0

log = structlog.get_logger()


def storage_costs(store: Store, tasks: Mapping[str, Task], at: datetime) -> list[CostIncurred]:
    """The cost of the day that `at` is in, where the price book names a price. Blocking.

    Asked again on the same day, the events have the same ids and the same time: the ledger takes the first.
    """
    day, size = name_of("day", at), _bytes(store.root)
    days = (end_of("month", at) - begin_of("month", at)).days
    examples = {key: store.count_examples(key) + 1 for key in tasks}
    events = []
    for key, task in tasks.items():
        price = task.prices.usd("usd_per_gb_month", at)
        share = size * examples[key] / sum(examples.values())
        if price:
            events.append(
                CostIncurred(
                    id=follow_id(f"storage/{day}", CostIncurred.TYPE, key),
                    time=begin_of("day", at),
                    tenant=task.tenant,
                    task=task.name,
                    cause_id=f"storage/{day}",
                    kind="storage",
                    usd=share / GIGABYTE * price / days,
                    note=f"{share / GIGABYTE:.3f} GB",
                )
            )
    return events


async def report_storage(
    store: Store, tasks: Mapping[str, Task], publish: Callable[[Event], Awaitable[None]], *, look_s: float = LOOK_S
) -> None:
    """Report each day once, until cancelled."""
    reported = ""
    while True:
        at = now()
        if name_of("day", at) != reported:
            try:
                for event in await asyncio.to_thread(storage_costs, store, tasks, at):
                    await publish(event)
                reported = name_of("day", at)
            except (KafkaError, OSError) as error:
                log.warning("storage_not_reported", error=f"{type(error).__name__}: {error}")
        await asyncio.sleep(look_s)


def _bytes(folder: Path) -> int:
    """Of all files under `folder`; one that goes away meanwhile counts no more."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
    return total
