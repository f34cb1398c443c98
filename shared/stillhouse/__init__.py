"""Stillhouse: expensive model calls, replaced by a cheap model that has been proven to give the same answers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillhouse.client import Client, RequestFailed

__all__ = ["Client", "RequestFailed"]


def __getattr__(name: str) -> Any:
    # The client brings Kafka along, which a user of the statistics or the distillation engine need not import.
    if name in __all__:
        from stillhouse import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
