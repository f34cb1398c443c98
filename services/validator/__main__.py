"""`python -m services.validator`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

from functools import partial

from services.validator.app import build_app
from services.validator.settings import ValidatorSettings
from stillhouse.bus.service import run_service

if __name__ == "__main__":
    settings = ValidatorSettings()
    run_service(partial(build_app, settings), settings)
