"""Composes the drift monitor: the only place that builds concrete objects."""

from __future__ import annotations

from functools import partial
from typing import Final

from services.drift_monitor.handlers import build_router
from services.drift_monitor.input_states import InputStates
from services.drift_monitor.looking import Looking
from services.drift_monitor.settings import DriftMonitorSettings
from services.drift_monitor.states import States
from services.drift_monitor.watching import Watching
from stillhouse.bus import make_broker, publish
from stillhouse.bus.redis import connect_redis
from stillhouse.bus.said import Said
from stillhouse.bus.service import Service
from stillhouse.store import Store
from stillhouse.tasks import load_tasks
from stillhouse.tasks.comparators import comparisons_of

SOURCE: Final = "/services/drift-monitor"


def build_app(settings: DriftMonitorSettings) -> Service:
    """The drift monitor as a service that has not started yet. Raises `TaskFileError`."""
    tasks = load_tasks(settings.tasks)
    redis = connect_redis(settings.redis)
    broker = make_broker(settings, "drift-monitor")
    store = Store(settings.home / "store")
    said = Said(settings.kafka, partial(publish, broker, source=SOURCE), settings.home / "said" / "drift-monitor.jsonl")
    states = States(redis, store, settings.drift_monitor_window)
    looking = Looking(tasks, InputStates(redis), store, said.say, comparisons_of(tasks, settings.home))
    broker.context.set_global("redis", redis)
    watching = Watching(tasks, states, looking, said.say)
    broker.context.set_global("watching", watching)
    broker.include_router(build_router(settings.kafka))

    async def redis_ready() -> bool:
        return bool(await redis.ping())

    return Service(
        name="drift-monitor",
        broker=broker,
        background=[said.repeat, watching.ask_regularly],
        on_stop=[redis.aclose],
        ready={"redis": redis_ready},
    )
