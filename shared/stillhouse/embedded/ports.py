"""Ports of the embedded profile: the wanted one, or any that is free."""

from __future__ import annotations

from stillhouse.embedded.broker import EmbeddedError
from stillhouse.processes import is_free, unused_port


def free_port(wanted: int | None = None, option: str = "--port") -> int:
    """A port that nobody listens on: `wanted`, or any. Raises `EmbeddedError` where `wanted` is taken."""
    if wanted is not None:
        if not is_free(wanted):
            raise EmbeddedError(f"Port {wanted} on 127.0.0.1 is taken; name another one with {option}.")
        return wanted
    try:
        return unused_port()
    except OSError as error:
        raise EmbeddedError(f"{error}.") from None
