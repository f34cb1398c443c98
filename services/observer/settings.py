"""What only the observer is told."""

from __future__ import annotations

from pydantic import Field

from stillhouse.settings import Settings


class ObserverSettings(Settings):
    """`STILLHOUSE_...` as for every service, and the observer's own keys."""

    observer_pause_s: float = Field(
        default=0.5,
        ge=0,
        description="Rest after a batch that was not full: fewer and larger writes, and rows that much later.",
    )
