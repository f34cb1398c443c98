"""Erasing: which texts, requests and people were erased and when, kept so that no replay and no student forgets it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows an erasure took out of which table."""

    examples: int
    audits: int
    cases: int = 0
    reviews: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What an erasure would take: rows by table, and what datasets, caches and the log may know them by.

    `input_sha256s` are texts of which nothing stays: one that somebody else sent, too, is not among them.
    """

    rows: Erased
    example_ids: frozenset[str]
    request_ids: frozenset[str]
    input_sha256s: frozenset[str]


def request_mark(tenant: str, request_id: str) -> str:
    """What stands for a request in the file of erasures."""
    return _mark("request", tenant, request_id)


def group_mark(tenant: str, group: str) -> str:
    """What stands for a person, conversation or layout of a tenant in the file of erasures."""
    return _mark("group", tenant, group)


class Erasures:
    """The file of what was erased: a hash to the time of the erasure. Holds no text, no id and no name.

    Bare hashes are of normalised, redacted inputs; others say `request:` or `group:` first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[tuple[int, int, int], dict[str, datetime]] | None = None

    def all(self) -> dict[str, datetime]:
        """Every mark. The file is read again only when it was replaced."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return {}
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if self._read is None or self._read[0] != stamp:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
            self._read = (stamp, {mark: datetime.fromisoformat(time) for mark, time in entries.items()})
        return self._read[1]

    def add(self, input_sha256s: Iterable[str], marks: Iterable[str] = ()) -> list[str]:
        """Note inputs and `marks` as erased now, for one caller at a time; gives the inputs sorted, without repeats.

        Raises `ValueError` for what is no sha256.
        """
        hashes = sorted(set(input_sha256s))
        for sha in hashes:
            if not _SHA256.fullmatch(sha):
                raise ValueError(
                    f"{sha[:80]!r} is no input_sha256 (64 hexadecimal digits): take it from the example's column, or "
                    "compute it by stillhouse.store.redaction.input_hash(text)."
                )
        now = datetime.now(UTC)
        noted = self.all() | dict.fromkeys([*hashes, *marks], now)
        entries = {mark: time.isoformat() for mark, time in noted.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(entries, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        return hashes

    def spares(self, row: dict[str, Any]) -> bool:
        """Whether `row` may be written: not where it is older than the erasure of its input or group, as in a replay.

        A request that was erased never comes back, whatever the time of its answer.
        """
        marks = self.all()
        if not marks:
            return True
        if request_mark(row["tenant"], row["request_id"]) in marks:
            return False
        times = [marks.get(row["input_sha256"])]
        if row.get("group") is not None:
            times.append(marks.get(group_mark(row["tenant"], row["group"])))
        return all(time is None or row["time"] > time for time in times)


def _mark(kind: str, tenant: str, name: str) -> str:
    digest = hashlib.sha256(f"{tenant}\x00{name}".encode()).hexdigest()
    return f"{kind}:{digest}"
