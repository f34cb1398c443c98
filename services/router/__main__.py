"""`python -m services.router`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

from functools import partial

from services.router.app import build_app
from services.router.settings import RouterSettings
from stillhouse.bus.service import run_service

if __name__ == "__main__":
    settings = RouterSettings()
    run_service(partial(build_app, settings), settings)
