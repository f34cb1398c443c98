"""`python -m services.validator`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

from stillhouse.bus.service import run_service

from services.validator.app import build_app
from services.validator.settings import ValidatorSettings

if __name__ == "__main__":
    settings = ValidatorSettings()
    run_service(build_app(settings), settings)
