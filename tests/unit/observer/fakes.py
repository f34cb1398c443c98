"""A store in memory and a log that is a list."""

from __future__ import annotations

from typing import Any

from stillhouse.events import Event


class FakeStore:
    """Keeps rows by table and id. As the real one, it finds an id only at the time that it was written with."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[tuple[str, Any], Any]] = {}
        self.broken: str | None = None  # a table that cannot be written

    def append_examples(self, rows: Any) -> set[str]:
        return self._append("examples", "example_id", rows)

    def append_audits(self, rows: Any) -> set[str]:
        return self._append("audits", "audit_id", rows)

    def append_ledger(self, rows: Any) -> set[str]:
        return self._append("ledger", "entry_id", rows)

    def append_routes(self, rows: Any) -> set[str]:
        return self._append("routes", "event_id", rows)

    def rows(self, table: str) -> list[Any]:
        return list(self.tables.get(table, {}).values())

    def _append(self, table: str, column: str, rows: Any) -> set[str]:
        if self.broken == table:
            raise OSError("no space left on device")
        kept = self.tables.setdefault(table, {})
        new = {getattr(row, column): row for row in rows if (getattr(row, column), row.time) not in kept}
        kept.update({(name, row.time): row for name, row in new.items()})
        return set(new)


class FakeLog:
    """Remembers what was published, and in which trace."""

    def __init__(self) -> None:
        self.said: list[tuple[Event, str | None]] = []
        self.away = False

    async def __call__(self, event: Event, *, traceparent: str | None = None) -> None:
        if self.away:
            raise ConnectionError("the log is away")
        self.said.append((event, traceparent))

    @property
    def ids(self) -> list[str]:
        return [event.id for event, _ in self.said]
