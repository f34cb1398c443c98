"""`python -m stillhouse.embedded.supervisor_main PROFILE_JSON`: the supervisor as a process of its own.

It ends with 0 when told to stop (SIGTERM or SIGINT); otherwise the last line of its stderr is the reason.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from stillhouse.embedded.broker import EmbeddedError
from stillhouse.embedded.supervisor import Profile, Say, Supervisor
from stillhouse.settings import Kafka


def to_json(profile: Profile) -> str:
    """What `main` takes. The Kafka's credentials stay in the environment."""
    return json.dumps(
        {
            "home": str(profile.home),
            "tasks": str(profile.tasks),
            "root": str(profile.root),
            "services": profile.services,
            "package": profile.package,
            "own_kafka": profile.kafka is not None,
            "own_redis": profile.own_redis,
            "port": profile.port,
            "first_pause": profile.first_pause,
        }
    )


def from_json(text: str) -> Profile:
    """The inverse of `to_json`, with the Kafka of the environment where the profile uses the user's."""
    fields: dict[str, Any] = json.loads(text)
    for name in ("home", "tasks", "root"):
        fields[name] = Path(fields[name])
    fields["services"] = tuple(fields["services"])
    fields["kafka"] = kafka_of_environment() if fields.pop("own_kafka") else None
    return Profile(**fields)


def kafka_of_environment() -> Kafka:
    """The user's Kafka, as `STILLHOUSE_KAFKA__*` describes it."""
    from stillhouse.settings import Settings

    return Settings().kafka


async def supervise(profile: Profile, say: Say) -> None:
    """Run until SIGTERM or SIGINT. Raises `EmbeddedError`."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Supervisor(profile, say).run(stop)


def main() -> None:
    """Supervise, one line of log per thing that happens."""

    def say(line: str) -> None:
        print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), line, flush=True)

    try:
        asyncio.run(supervise(from_json(sys.argv[1]), say))
    except EmbeddedError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
