"""`python -m services.observer`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

from functools import partial

from services.observer.app import build_app
from services.observer.settings import ObserverSettings
from stillhouse.bus.service import run_service

if __name__ == "__main__":
    settings = ObserverSettings()
    run_service(partial(build_app, settings), settings)
