"""What only the router is told."""

from __future__ import annotations

from pydantic import Field, SecretStr

from stillhouse.settings import Settings


class RouterSettings(Settings):
    """`STILLHOUSE_...` as for every service, and the router's own keys."""

    router_max_in_flight: int = Field(
        default=256, ge=1, description="Requests answered at a time; then it reads no more."
    )
    router_edge_port: int | None = Field(
        default=None, ge=0, le=65535, description="Port of the OpenAI-compatible edge. None: there is no edge; 0: any."
    )
    router_edge_host: str = Field(default="127.0.0.1", description="Address of the edge.")
    router_edge_keys: tuple[SecretStr, ...] = Field(
        default=(),
        description="JSON list of keys, one of which clients of the edge must show. Empty: none is asked for.",
    )
    router_grace_s: float = Field(
        default=8.0,
        gt=0,
        description="On SIGTERM: time to finish what is in flight. Closing models takes up to 5 s more.",
    )
