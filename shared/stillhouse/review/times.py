"""Times as labelling tools write them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def time_of(value: Any) -> datetime | None:
    """An ISO 8601 time, in UTC where it names no offset; None for anything else."""
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return time if time.utcoffset() is not None else time.replace(tzinfo=UTC)
