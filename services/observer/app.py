"""Composes the observer: the only place that builds concrete objects."""

from __future__ import annotations

from functools import partial
from typing import Final

from services.observer.handlers import build_router
from services.observer.recorder import Recorder
from services.observer.settings import ObserverSettings
from services.observer.storage import report_storage
from stillhouse.bus import make_broker, publish
from stillhouse.bus.metering import Meter
from stillhouse.bus.service import Service, writable
from stillhouse.store import Store
from stillhouse.tasks import load_tasks

SOURCE: Final = "/services/observer"


def build_app(settings: ObserverSettings) -> Service:
    """The observer as a service that has not started yet. Raises `TaskFileError`."""
    tasks = load_tasks(settings.tasks)
    broker = make_broker(settings, "observer")
    store = Store(settings.home / "store")
    say = partial(publish, broker, source=SOURCE)
    meter = Meter("capture", tasks)
    recorder = Recorder(
        store,
        say,
        tasks,
        meter,
        pause_s=settings.observer_pause_s,
    )
    broker.context.set_global("recorder", recorder)
    broker.include_router(build_router(settings.kafka))

    return Service(
        name="observer",
        broker=broker,
        background=[partial(report_storage, store, tasks, say), partial(meter.report_regularly, say)],
        ready={"home": partial(writable, settings.home)},
    )
