"""Composes the validator: the only place that builds concrete objects."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import Final

from services.validator.gates import Gates
from services.validator.handlers import build_router
from services.validator.lineage import log_regularly
from services.validator.recalibrating import Recalibrating
from services.validator.reviewing import Reviewing
from services.validator.settings import ValidatorSettings
from services.validator.stage_states import StageStates
from services.validator.verdicts import Verdicts
from services.validator.watching import Watching
from stillhouse.bus import make_broker, publish
from stillhouse.bus.jobs import JobQueue, work
from stillhouse.bus.redis import connect_redis, restore_regularly
from stillhouse.bus.said import Said
from stillhouse.bus.service import Service, writable
from stillhouse.store import Store
from stillhouse.tasks import load_tasks
from stillhouse.tasks.comparators import comparisons_of

SOURCE: Final = "/services/validator"


def build_app(settings: ValidatorSettings) -> Service:
    """The validator as a service that has not started yet. Raises `TaskFileError`."""
    tasks = load_tasks(settings.tasks)
    redis = connect_redis(settings.redis)
    store = Store(settings.home / "store")
    broker = make_broker(settings, "validator")
    said = Said(settings.kafka, partial(publish, broker, source=SOURCE), settings.home / "said" / "validator.jsonl")
    queue = JobQueue(redis, "gates")
    verdicts = Verdicts(store, said.say, settings.home)
    gates = Gates(
        tasks,
        store,
        queue,
        verdicts,
        said.say,
        settings.home,
        lease_s=settings.validator_lease_s,
        check_s=settings.validator_check_s,
    )
    reviewing = Reviewing(tasks, store, said.say, look_s=settings.validator_review_s)
    recalibrating = Recalibrating(tasks, store, said.say, settings.home, comparisons_of(tasks, settings.home))
    broker.context.set_global("redis", redis)
    broker.context.set_global("gates", gates)
    broker.context.set_global("watching", Watching(tasks, store, StageStates(redis), gates, verdicts))
    broker.context.set_global("reviewing", reviewing)
    broker.context.set_global("recalibrating", recalibrating)
    broker.include_router(build_router(settings.kafka))
    worker = f"{socket.gethostname()}-{os.getpid()}"

    async def redis_ready() -> bool:
        return bool(await redis.ping())

    return Service(
        name="validator",
        broker=broker,
        background=[
            said.repeat,
            partial(restore_regularly, redis, "validator", gates.recover),
            gates.check_regularly,
            reviewing.look_regularly,
            partial(recalibrating.check_regularly, settings.validator_check_s),
            partial(log_regularly, gates.to_log, settings.home),
            # One worker: two students judged at once would draw the same share of alpha.
            partial(work, queue, worker, gates.run, lease_s=settings.validator_lease_s),
        ],
        on_start=[gates.recover],
        on_stop=[redis.aclose],
        ready={"redis": redis_ready, "home": partial(writable, settings.home)},
    )
