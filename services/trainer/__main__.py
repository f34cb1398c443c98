"""`python -m services.trainer`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

from functools import partial

from services.trainer.app import build_app
from services.trainer.settings import TrainerSettings
from stillhouse.bus.service import run_service

if __name__ == "__main__":
    settings = TrainerSettings()
    run_service(partial(build_app, settings), settings)
