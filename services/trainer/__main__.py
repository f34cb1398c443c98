"""`python -m services.trainer`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

from stillhouse.bus.service import run_service

from services.trainer.app import build_app
from services.trainer.settings import TrainerSettings

if __name__ == "__main__":
    settings = TrainerSettings()
    run_service(build_app(settings), settings)
