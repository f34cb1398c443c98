"""Composes the trainer: the only place that builds concrete objects."""

from __future__ import annotations

import os
import socket
from functools import partial

from services.trainer.control import BudgetControl
from services.trainer.handlers import build_router
from services.trainer.lineage import log_regularly
from services.trainer.settings import TrainerSettings
from services.trainer.states import States
from services.trainer.training import SOURCE, Training
from stillhouse.bus import make_broker, publish
from stillhouse.bus.jobs import JobQueue, work
from stillhouse.bus.recorded import until_recorded
from stillhouse.bus.redis import connect_redis, restore_regularly
from stillhouse.bus.said import Said
from stillhouse.bus.service import Service, writable
from stillhouse.bus.spending import Accounts, ledger_of
from stillhouse.store import Store
from stillhouse.tasks import load_tasks


def build_app(settings: TrainerSettings) -> Service:
    """The trainer as a service that has not started yet. Raises `TaskFileError`."""
    tasks = load_tasks(settings.tasks)
    redis = connect_redis(settings.redis)
    store = Store(settings.home / "store")
    broker = make_broker(settings, "trainer")
    queue = JobQueue(redis, "training")
    said = Said(settings.kafka, partial(publish, broker, source=SOURCE), settings.home / "said" / "trainer.jsonl")
    training = Training(
        tasks,
        States(redis, store, settings.home),
        store,
        queue,
        said.say,
        settings.home,
        BudgetControl(store, Accounts(redis, ledger_of(store), partial(until_recorded, settings.kafka))),
        lease_s=settings.trainer_lease_s,
        evaluate_s=settings.trainer_evaluate_s,
    )
    broker.context.set_global("training", training)
    broker.include_router(build_router(settings.kafka))
    worker = f"{socket.gethostname()}-{os.getpid()}"

    async def redis_ready() -> bool:
        return bool(await redis.ping())

    return Service(
        name="trainer",
        broker=broker,
        background=[
            said.repeat,
            partial(restore_regularly, redis, "trainer", training.recover),
            training.evaluate_regularly,
            partial(work, queue, worker, training.run, lease_s=settings.trainer_lease_s),
            partial(log_regularly, training.to_log, settings.home),
        ],
        on_start=[training.recover],
        on_stop=[redis.aclose],
        ready={"redis": redis_ready, "home": partial(writable, settings.home)},
    )
