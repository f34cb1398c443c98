"""Which offset of a partition may be committed when its records end out of order."""

from __future__ import annotations


class LowWaterMark:
    """Offsets in flight of one partition; everything below `position` is done.

    Offsets begin in rising order (as Kafka delivers them, gaps allowed) and end in any order.
    """

    def __init__(self) -> None:
        self._in_flight: dict[int, bool] = {}  # offset -> done; insertion order is offset order
        self._position: int | None = None

    def begin(self, offset: int) -> None:
        """Take note of a delivered record. Raises `ValueError` where offsets do not rise."""
        if self._in_flight and offset <= next(reversed(self._in_flight)):
            raise ValueError(f"offset {offset} was delivered out of order")
        self._in_flight[offset] = False

    def end(self, offset: int) -> None:
        """The record is done: its effects are out. Raises `KeyError` for one that is not in flight."""
        if self._in_flight[offset]:
            raise KeyError(offset)
        self._in_flight[offset] = True
        while self._in_flight:
            first = next(iter(self._in_flight))
            if not self._in_flight[first]:
                break
            del self._in_flight[first]
            self._position = first + 1

    @property
    def position(self) -> int | None:
        """The offset to commit (the next to be read after a restart); None: nothing is done yet."""
        return self._position

    @property
    def in_flight(self) -> int:
        """How many records are held: begun, and not yet below the mark."""
        return len(self._in_flight)
