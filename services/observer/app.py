"""Composes the observer: the only place that builds concrete objects."""

from __future__ import annotations

from functools import partial
from typing import Final

from services.observer.handlers import build_router
from services.observer.recorder import Recorder
from services.observer.settings import ObserverSettings
from stillhouse.bus import make_broker, publish
from stillhouse.bus.service import Service, writable
from stillhouse.store import Store
from stillhouse.tasks import load_tasks

SOURCE: Final = "/services/observer"


def build_app(settings: ObserverSettings) -> Service:
    """The observer as a service that has not started yet. Raises `TaskFileError`."""
    tasks = load_tasks(settings.tasks)
    broker = make_broker(settings, "observer")
    recorder = Recorder(
        Store(settings.home / "store"),
        partial(publish, broker, source=SOURCE),
        tasks.keys(),
        pause_s=settings.observer_pause_s,
    )
    broker.context.set_global("recorder", recorder)
    broker.include_router(build_router(settings.kafka))

    return Service(name="observer", broker=broker, ready={"home": partial(writable, settings.home)})
