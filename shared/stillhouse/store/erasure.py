"""Erasing texts: which were erased and when, kept so that neither the log's replays nor a student forget it."""

from __future__ import annotations

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


class Erasures:
    """The file of erased inputs: sha256 of the normalised, redacted text to the time of its erasure. Holds no text."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[tuple[int, int, int], dict[str, datetime]] | None = None

    def all(self) -> dict[str, datetime]:
        """Every erased input. The file is read again only when it was replaced."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return {}
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if self._read is None or self._read[0] != stamp:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
            self._read = (stamp, {sha: datetime.fromisoformat(time) for sha, time in entries.items()})
        return self._read[1]

    def add(self, input_sha256s: Iterable[str]) -> list[str]:
        """Note the inputs as erased now, for one caller at a time; gives them sorted, without repeats.

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
        entries = {sha: time.isoformat() for sha, time in (self.all() | dict.fromkeys(hashes, now)).items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        os.replace(temporary, self._path)
        return hashes

    def spares(self, row: dict[str, Any]) -> bool:
        """Whether `row` may be written: not where it is older than the erasure of its input, as in a replay."""
        erased = self.all().get(row["input_sha256"])
        return erased is None or row["time"] > erased
