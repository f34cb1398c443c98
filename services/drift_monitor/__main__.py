"""`python -m services.drift_monitor`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

from functools import partial

from services.drift_monitor.app import build_app
from services.drift_monitor.settings import DriftMonitorSettings
from stillhouse.bus.service import run_service

if __name__ == "__main__":
    settings = DriftMonitorSettings()
    run_service(partial(build_app, settings), settings)
