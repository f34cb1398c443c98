"""How a command finds the platform: the profile that runs in the folder, or else what the environment names."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from stillhouse.events import Event
from stillhouse.settings import Redis, Settings

SOURCE = "/cli"


def settings_of_running(home: Path) -> Settings:
    """Settings that reach the profile running in `home`, or what the environment names where none runs."""
    from stillhouse.embedded.state import running

    settings = Settings(home=home)
    state = running(home)
    if state is None:
        return settings
    kafka = {"bootstrap_servers": state.bootstrap_servers, "embedded": state.embedded}
    update: dict[str, object] = {"kafka": settings.kafka.model_copy(update=kafka), "tasks": Path(state.tasks)}
    if state.redis_url is not None:
        update["redis"] = Redis(url=SecretStr(state.redis_url))
    return settings.model_copy(update=update)


async def publish_command(settings: Settings, event: Event) -> None:
    """Say `event` once, and wait until the log has it. Raises `TooLarge`, `KafkaError`."""
    from aiokafka import AIOKafkaProducer

    from stillhouse.bus import encode, producer_options

    record = encode(event, source=SOURCE)
    producer = AIOKafkaProducer(**producer_options(settings.kafka))
    try:
        await producer.start()
        await producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)
    finally:
        await producer.stop()
