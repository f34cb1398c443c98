"""How a command finds the platform and speaks to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stillhouse.events import Event
    from stillhouse.settings import Settings

SOURCE = "/cli"


def settings_of_running(home: Path) -> Settings:
    """Settings that reach the profile running in `home`, or what the environment names where none runs."""
    from stillhouse.embedded.profile import running_settings

    return running_settings(home)


async def publish_command(settings: Settings, event: Event) -> None:
    """Say `event` once, and wait until the log has it. Raises `TooLarge`, `KafkaError`."""
    await publish_events(settings, [event])


async def publish_events(settings: Settings, events: Sequence[Event]) -> None:
    """Say `events` in their order, and wait until the log has them. Raises `TooLarge`, `KafkaError`."""
    from aiokafka import AIOKafkaProducer

    from stillhouse.bus import encode, producer_options

    records = [encode(event, source=SOURCE) for event in events]
    if not records:
        return
    producer = AIOKafkaProducer(**producer_options(settings.kafka))
    try:
        await producer.start()
        for record in records:
            await producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)
    finally:
        await producer.stop()
