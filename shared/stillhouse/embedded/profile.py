"""Reaching the profile that `stillhouse up` started, from Python."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from stillhouse.embedded.state import running
from stillhouse.settings import Redis, Settings


def running_settings(home: Path = Path(".stillhouse")) -> Settings:
    """Settings that reach the profile running in `home`, or what the environment names where none runs."""
    settings = Settings(home=home)
    state = running(home)
    if state is None:
        return settings
    kafka = {"bootstrap_servers": state.bootstrap_servers, "embedded": state.embedded}
    update: dict[str, object] = {"kafka": settings.kafka.model_copy(update=kafka), "tasks": Path(state.tasks)}
    if state.redis_url is not None:
        update["redis"] = Redis(url=SecretStr(state.redis_url))
    return settings.model_copy(update=update)
