"""What only the router is told."""

from __future__ import annotations

from pydantic import Field

from stillhouse.settings import Settings


class RouterSettings(Settings):
    """`STILLHOUSE_...` as for every service, and the router's own keys."""

    router_max_in_flight: int = Field(
        default=256, ge=1, description="Requests answered at a time; then it reads no more."
    )
    router_grace_s: float = Field(
        default=8.0,
        gt=0,
        description="On SIGTERM: time to finish what is in flight. Closing models takes up to 5 s more.",
    )
